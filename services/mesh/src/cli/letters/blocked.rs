//! Blocked keys.

use mesh_core::operate::keys::{self, Blocked, Head};
use serde_json::{Value, json};

use super::{
    super::{
        columns::{Columns, Give},
        place::Place,
        text,
    },
    BlockedArgs, GlobalArgs, Output, Status, short, shown_key,
};

const HEADER: [&str; 5] = ["KEY", "CONSUMER", "SINCE (UTC)", "BLOCKED BY", "BEHIND IT"];
/// How its columns give way on a narrow terminal.
const STEPS: &[(usize, Give)] =
    &[(1, Give::To(20)), (0, Give::To(16)), (2, Give::Moments), (3, Give::To(15)), (1, Give::To(8))];

pub(super) async fn run(args: BlockedArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let bus = Place::find(global)?.connect().await?;
    let (service, consumer) = args.consumer.map_or((None, None), |c| (c.service, Some(c.name)));
    let blocked = keys::blocked(&bus, service.as_ref(), consumer.as_ref()).await?;
    bus.close().await;
    if output.is_json() {
        output.json(&blocked.iter().map(|one| summary(one, args.reveal)).collect::<Vec<_>>())?;
        return Ok(Status::Ok);
    }
    if blocked.is_empty() {
        output.remark("no key is blocked");
        return Ok(Status::Ok);
    }
    let rows = blocked.iter().map(|one| row(one, args.reveal)).collect();
    output.line(&Columns::new(HEADER, STEPS).laid_out(rows, output))?;
    let letter = blocked.iter().find_map(|one| match &one.by {
        Head::Letter(id) => Some(id),
        Head::Delayed | Head::Drained => None,
    });
    if let Some(letter) = letter {
        output.remark(&format!("\nnext: mesh dead-letter show {}", short(letter)));
    }
    Ok(Status::Ok)
}

fn row(blocked: &Blocked, reveal: bool) -> [String; 5] {
    let by = match &blocked.by {
        Head::Letter(id) => format!("letter {}", short(id)),
        Head::Delayed => "waits to be tried again".to_owned(),
        Head::Drained => "nothing: being handled".to_owned(),
    };
    [
        shown_key(&blocked.key, reveal).to_owned(),
        format!("{}/{}", blocked.service, blocked.consumer),
        text::moment(blocked.since_ms),
        by,
        blocked.followers.to_string(),
    ]
}

fn summary(blocked: &Blocked, reveal: bool) -> Value {
    let (state, letter) = match &blocked.by {
        Head::Letter(id) => ("letter", Some(id)),
        Head::Delayed => ("delayed", None),
        Head::Drained => ("draining", None),
    };
    json!({
        "key": shown_key(&blocked.key, reveal),
        "service": blocked.service.as_str(),
        "consumer": blocked.consumer.as_str(),
        "sinceMs": blocked.since_ms,
        "state": state,
        "letter": letter,
        "messageId": blocked.message_id,
        "followers": blocked.followers,
    })
}
