//! An rpc service: its operations, client, server trait and server.

use mesh_proto::options::{self, RepeatRule};
use prost_build::Comments;
use prost_reflect::{MethodDescriptor, ServiceDescriptor};

use super::{key_expression, push};
use crate::{
    place::{Place, comments},
    rust_names::{Externs, snake, upper_camel},
};

pub(super) fn push_service(text: &mut String, service: &ServiceDescriptor, externs: &Externs) {
    let rpcs: Vec<Rpc> = service.methods().map(|method| Rpc::new(&method, externs)).collect();
    let names = Names {
        service: upper_camel(service.name()),
        module: snake(service.name()),
        full: service.full_name().to_owned(),
        docs: comments(&Place::of_service(service)),
    };
    names.push_operations(text, &rpcs);
    names.push_client(text, &rpcs);
    names.push_trait(text, &rpcs);
    names.push_server(text, &rpcs);
}

/// One rpc, with its Rust names.
struct Rpc {
    proto: String,
    operation: String,
    function: String,
    /// Seen from the package's module.
    request: String,
    reply: String,
    repeat: &'static str,
    key: String,
    docs: Comments,
}

impl Rpc {
    fn new(method: &MethodDescriptor, externs: &Externs) -> Rpc {
        let package = method.parent_file().package_name().to_owned();
        let key = options::operation(method).key;
        Rpc {
            proto: method.name().to_owned(),
            operation: upper_camel(method.name()),
            function: snake(method.name()),
            request: externs.path(&method.input(), &package),
            reply: externs.path(&method.output(), &package),
            repeat: repeat_variant(options::repeat(method)),
            key: key_expression(&method.input(), &key, "request"),
            docs: comments(&Place::of_method(method)),
        }
    }
}

fn repeat_variant(rule: RepeatRule) -> &'static str {
    match rule {
        RepeatRule::NoSideEffects => "NoSideEffects",
        RepeatRule::Idempotent => "Idempotent",
        RepeatRule::Keyed => "Keyed",
        RepeatRule::LookUp => "LookUp",
        RepeatRule::Once => "Once",
    }
}

/// What the parts of one service share.
struct Names {
    service: String,
    module: String,
    full: String,
    docs: Comments,
}

impl Names {
    fn push_operations(&self, text: &mut String, rpcs: &[Rpc]) {
        push(text, &format!("\n/// The operations of `{}`.\npub mod {} {{", self.full, self.module));
        for rpc in rpcs {
            push(text, "\n");
            push_docs(text, &rpc.docs, 1, &format!("The operation `{}/{}`.", self.full, rpc.proto));
            let (request, reply) = (one_up(&rpc.request), one_up(&rpc.reply));
            let Rpc { operation, proto, repeat, key, .. } = rpc;
            let unused = if key.contains("request") { "" } else { "_" };
            let service = &self.full;
            push(
                text,
                &format!(
                    r#"    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct {operation};

    impl ::mesh_core::contract::Operation for {operation} {{
        type Request = {request};
        type Reply = {reply};
        const SERVICE: &'static str = "{service}";
        const METHOD: &'static str = "{proto}";
        const REPEAT: ::mesh_core::contract::Repeat = ::mesh_core::contract::Repeat::{repeat};

        fn key({unused}request: &Self::Request) -> ::std::borrow::Cow<'_, str> {{
            {key}
        }}
    }}
"#
                ),
            );
        }
        push(text, "}\n");
    }

    fn push_client(&self, text: &mut String, rpcs: &[Rpc]) {
        let Names { service, module, full, .. } = self;
        push(
            text,
            &format!(
                r#"
/// Asks for the operations of `{full}`: `call` answers now, `enqueue` has it done later.
#[derive(Debug, Clone)]
pub struct {service}Client {{
    mesh: ::mesh_core::Mesh,
}}

impl {service}Client {{
    /// A client on this mesh.
    #[must_use]
    pub fn new(mesh: &::mesh_core::Mesh) -> Self {{
        Self {{ mesh: mesh.clone() }}
    }}
"#
            ),
        );
        for rpc in rpcs {
            let Rpc { operation, function, .. } = rpc;
            push(text, "\n");
            push_docs(text, &rpc.docs, 1, &format!("The operation `{full}/{}`.", rpc.proto));
            push(
                text,
                &format!(
                    r#"    #[must_use]
    pub fn {function}(&self) -> ::mesh_core::OperationClient<{module}::{operation}> {{
        self.mesh.operation()
    }}
"#
                ),
            );
        }
        push(text, "}\n");
    }

    fn push_trait(&self, text: &mut String, rpcs: &[Rpc]) {
        push(text, "\n");
        push_docs(text, &self.docs, 0, &format!("The service `{}`.", self.full));
        push(
            text,
            &format!(
                "///\n/// Implement it to serve `{}`; [`{}Server`] makes it a service of the mesh.\n\
                 pub trait {}: Send + Sync + 'static {{",
                self.full, self.service, self.service
            ),
        );
        for rpc in rpcs {
            let Rpc { function, request, reply, .. } = rpc;
            push(text, "\n");
            push_docs(text, &rpc.docs, 1, &format!("The operation `{}/{}`.", self.full, rpc.proto));
            push(
                text,
                &format!(
                    r#"    fn {function}(
        &self,
        cx: ::mesh_core::contract::Context,
        request: {request},
    ) -> impl ::std::future::Future<Output = ::std::result::Result<{reply}, ::mesh_core::fault::Fault>> + Send;
"#
                ),
            );
        }
        push(text, "}\n");
    }

    fn push_server_type(&self, text: &mut String) {
        let Names { service, .. } = self;
        push(
            text,
            &format!(
                r#"
/// An implementation of [`{service}`], ready to be served.
#[derive(Debug, Clone)]
pub struct {service}Server<T>(T);

impl<T: {service}> {service}Server<T> {{
    /// Serves `inner`.
    #[must_use]
    pub fn new(inner: T) -> Self {{
        Self(inner)
    }}
}}
"#
            ),
        );
    }

    fn push_server(&self, text: &mut String, rpcs: &[Rpc]) {
        let Names { service, module, full, .. } = self;
        let infos: String = rpcs
            .iter()
            .map(|rpc| {
                let operation = &rpc.operation;
                format!("            <{module}::{operation} as ::mesh_core::contract::Operation>::info(),\n")
            })
            .collect();
        let arms: String = rpcs.iter().map(arm).collect();
        self.push_server_type(text);
        push(
            text,
            &format!(
                r#"
impl<T: {service}> ::mesh_core::contract::Service for {service}Server<T> {{
    fn name(&self) -> &str {{
        "{full}"
    }}

    fn operations(&self) -> ::std::vec::Vec<::mesh_core::contract::OperationInfo> {{
        ::std::vec![
{infos}        ]
    }}

    fn dispatch<'a>(
        &'a self,
        method: &'a str,
        cx: ::mesh_core::contract::Context,
        payload: {BYTES},
    ) -> ::mesh_core::contract::BoxFuture<'a, ::std::result::Result<{BYTES}, ::mesh_core::fault::Fault>> {{
        ::std::boxed::Box::pin(async move {{
            match method {{
{arms}                _ => ::std::result::Result::Err(::mesh_core::contract::generated::unknown_method("{full}", method)),
            }}
        }})
    }}
}}
"#
            ),
        );
    }
}

const BYTES: &str = "::mesh_core::contract::generated::bytes::Bytes";

/// The server's way from bytes to bytes for one rpc.
fn arm(rpc: &Rpc) -> String {
    let Rpc { proto, function, .. } = rpc;
    format!(
        r#"                "{proto}" => {{
                    let request = ::mesh_core::contract::generated::decode(payload)?;
                    let reply = self.0.{function}(cx, request).await?;
                    ::std::result::Result::Ok(::mesh_core::contract::generated::encode(&reply))
                }}
"#
    )
}

/// The comments of the `.proto` file, or `otherwise` where there are none.
fn push_docs(text: &mut String, docs: &Comments, indent: u8, otherwise: &str) {
    if docs.leading.is_empty() && docs.trailing.is_empty() {
        push(text, &format!("{}/// {otherwise}\n", "    ".repeat(usize::from(indent))));
    } else {
        docs.append_with_indent(indent, text);
    }
}

/// A path as seen from one module further in.
fn one_up(path: &str) -> String {
    if path.starts_with("::") { path.to_owned() } else { format!("super::{path}") }
}
