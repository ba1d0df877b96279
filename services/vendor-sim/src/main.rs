//! The program `vendor-sim`: stand-ins of the vendors until Ctrl-C or SIGTERM.

use std::process::ExitCode;

use clap::Parser;

/// Hostile stand-ins of third-party vendors, over real HTTP
#[derive(Debug, Parser)]
#[command(name = "vendor-sim", version)]
struct Program {
    #[command(flatten)]
    args: vendor_sim::Args,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = Program::parse().args.into();
    match vendor_sim::run(config, stopped()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vendor-sim: {error}");
            ExitCode::from(2)
        }
    }
}

async fn stopped() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // No handler to be had: then only SIGTERM or a kill ends us.
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            () = interrupted => return,
            _ = terminate.recv() => return,
        }
    }
    interrupted.await;
}
