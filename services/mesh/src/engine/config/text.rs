//! The server's own text of a configuration. Everything that comes from outside stands in quotes.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Access, Cluster, JetStream, ServerConfig, UserEntry};

/// A subject that nobody uses: an allow-list that holds it alone allows nothing.
const NOTHING: &str = "mesh1.nothing";

impl ServerConfig {
    /// The server's own text, without the places that only a running server has. For configurations kept in files.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let port = |port: u16| if port == 0 { "-1".to_owned() } else { port.to_string() };
        line(&mut text, "server_name", &quote(&self.name));
        line(&mut text, "listen", &quote(&format!("{}:{}", self.host, port(self.port))));
        if let Some(monitoring) = self.monitoring {
            line(&mut text, "http", &quote(&format!("{}:{}", self.host, port(monitoring))));
        }
        line(&mut text, "max_payload", &self.max_payload_bytes.to_string());
        // Long subject lists are no use to anybody but an attacker.
        line(&mut text, "max_control_line", "4096");
        line(&mut text, "ping_interval", &duration(self.ping_interval));
        line(&mut text, "ping_max", "2");
        if let Some(jetstream) = &self.jetstream {
            write_jetstream(&mut text, jetstream);
        }
        if let Some(cluster) = &self.cluster {
            self.write_cluster(&mut text, cluster);
        }
        if let Access::Users(users) = &self.access {
            write_users(&mut text, users);
        }
        text
    }

    fn write_cluster(&self, text: &mut String, cluster: &Cluster) {
        let routes: Vec<String> = cluster.routes.iter().map(|route| quote(route)).collect();
        block(text, "cluster", |text| {
            line(text, "name", &quote(&cluster.name));
            line(text, "listen", &quote(&format!("{}:{}", self.host, cluster.port)));
            line(text, "routes", &format!("[{}]", routes.join(", ")));
        });
    }
}

fn write_jetstream(text: &mut String, jetstream: &JetStream) {
    block(text, "jetstream", |text| {
        if let Some(folder) = &jetstream.store_dir {
            line(text, "store_dir", &quote(&folder.to_string_lossy()));
        }
        if jetstream.sync_always {
            line(text, "sync_interval", "always");
        }
        line(text, "max_memory_store", &jetstream.max_memory_bytes.to_string());
        line(text, "max_file_store", &jetstream.max_file_bytes.to_string());
    });
}

/// The block of users alone, for a configuration that includes it from a file.
#[must_use]
pub fn users_text(users: &[UserEntry]) -> String {
    let mut text = String::new();
    write_users(&mut text, users);
    text
}

fn write_users(text: &mut String, users: &[UserEntry]) {
    text.push_str("authorization {\n  users = [\n");
    for user in users {
        let responses = user.allow_responses.map(|allowed| {
            format!(", allow_responses: {{max: {}, expires: {}}}", allowed.max, duration(allowed.expires))
        });
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "    {{nkey: {}, permissions: {{publish: {{allow: {}}}, subscribe: {{allow: {}}}{}}}}}",
            quote(&user.nkey_public),
            list(&user.publish_allow),
            list(&user.subscribe_allow),
            responses.unwrap_or_default(),
        );
    }
    text.push_str("  ]\n}\n");
}

fn list(subjects: &[String]) -> String {
    let quoted: Vec<String> = subjects.iter().map(|subject| quote(subject)).collect();
    if quoted.is_empty() { format!("[{}]", quote(NOTHING)) } else { format!("[{}]", quoted.join(", ")) }
}

pub(super) fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key}: {value}");
}

fn block(text: &mut String, name: &str, write: impl FnOnce(&mut String)) {
    let mut inner = String::new();
    write(&mut inner);
    let _ = writeln!(text, "{name} {{\n{inner}}}");
}

fn duration(duration: Duration) -> String {
    quote(&format!("{}ms", duration.as_millis()))
}

/// A double-quoted string of nats-server's configuration language, in which nothing has a meaning but `\`.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a quoted string as the server does, and says where it ends.
    fn read_quoted(text: &str) -> Option<(String, &str)> {
        let mut rest = text.strip_prefix('"')?.chars();
        let mut value = String::new();
        loop {
            match rest.next()? {
                '"' => return Some((value, rest.as_str())),
                '\n' => return None,
                '\\' => value.push(match rest.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'x' => {
                        let hex: String = rest.by_ref().take(2).collect();
                        char::from(u8::from_str_radix(&hex, 16).ok()?)
                    }
                    same @ ('"' | '\\') => same,
                    _ => return None,
                }),
                plain => value.push(plain),
            }
        }
    }

    proptest! {
        #[test]
        fn a_quoted_string_reads_back_and_never_ends_early(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert_eq!(read_quoted(&quoted), Some((text, "")));
        }
    }
}
