//! An event: its subject, publisher and consumer.

use mesh_proto::options;
use prost_reflect::MessageDescriptor;

use super::{key_expression, literal, push};
use crate::rust_names::local_path;

pub(super) fn push_event(text: &mut String, message: &MessageDescriptor) {
    let Some(event) = options::event(message) else { return };
    let path = local_path(message);
    let name = message.full_name();
    let producer = literal(&event.producer);
    let key = key_expression(message, &event.key, "self");
    push(
        text,
        &format!(
            r#"
impl ::mesh_core::contract::Event for {path} {{
    const PRODUCER: &'static str = "{producer}";

    fn key(&self) -> ::std::borrow::Cow<'_, str> {{
        {key}
    }}
}}

impl {path} {{
    /// The subjects of this event: `mesh1.event.<region>.{producer}.{name}.<partition>`.
    pub const SUBJECTS: &'static str = "mesh1.event.*.{producer}.{name}.*";

    /// Publishes this event, as the service `{producer}`.
    #[must_use]
    pub fn publisher(mesh: &::mesh_core::Mesh) -> ::mesh_core::Publisher<Self> {{
        mesh.publisher()
    }}

    /// Consumes this event. `name` is the consumer's: `[a-z0-9-]{{1,63}}`, one of its own within a service.
    #[must_use]
    pub fn consumer(mesh: &::mesh_core::Mesh, name: &str) -> ::mesh_core::ConsumerBuilder<Self> {{
        mesh.consumer(name)
    }}
}}
"#
        ),
    );
}
