
impl ::mesh_core::contract::Contract for Sent {
    const FULL_NAME: &'static str = "parcel.v1.Sent";
}

impl ::mesh_core::contract::Event for Sent {
    const PRODUCER: &'static str = "ware-house";

    fn key(&self) -> ::std::borrow::Cow<'_, str> {
        ::std::borrow::Cow::Owned(self.r#type.unwrap_or_default().to_string())
    }
}

impl Sent {
    /// The subjects of this event: `mesh1.event.<region>.ware-house.parcel.v1.Sent.<partition>`.
    pub const SUBJECTS: &'static str = "mesh1.event.*.ware-house.parcel.v1.Sent.*";

    /// Publishes this event, as the service `ware-house`.
    #[must_use]
    pub fn publisher(mesh: &::mesh_core::Mesh) -> ::mesh_core::Publisher<Self> {
        mesh.publisher()
    }

    /// Consumes this event. `name` is the consumer's: `[a-z0-9-]{1,63}`, one of its own within a service.
    #[must_use]
    pub fn consumer(mesh: &::mesh_core::Mesh, name: &str) -> ::mesh_core::ConsumerBuilder<Self> {
        mesh.consumer(name)
    }
}

impl ::mesh_core::contract::Contract for sent::Address {
    const FULL_NAME: &'static str = "parcel.v1.Sent.Address";
}

/// Shows what is not confidential.
impl ::std::fmt::Debug for sent::Address {
    fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
        f.debug_struct("Address")
            .field("name", &"[personal]")
            .field("country", &self.country)
            .field("place", &"[personal]")
            .finish()
    }
}

impl ::mesh_core::contract::Contract for Returned {
    const FULL_NAME: &'static str = "parcel.v1.Returned";
}

impl ::mesh_core::contract::Event for Returned {
    const PRODUCER: &'static str = "ware-house";

    fn key(&self) -> ::std::borrow::Cow<'_, str> {
        ::std::borrow::Cow::Borrowed("")
    }
}

impl Returned {
    /// The subjects of this event: `mesh1.event.<region>.ware-house.parcel.v1.Returned.<partition>`.
    pub const SUBJECTS: &'static str = "mesh1.event.*.ware-house.parcel.v1.Returned.*";

    /// Publishes this event, as the service `ware-house`.
    #[must_use]
    pub fn publisher(mesh: &::mesh_core::Mesh) -> ::mesh_core::Publisher<Self> {
        mesh.publisher()
    }

    /// Consumes this event. `name` is the consumer's: `[a-z0-9-]{1,63}`, one of its own within a service.
    #[must_use]
    pub fn consumer(mesh: &::mesh_core::Mesh, name: &str) -> ::mesh_core::ConsumerBuilder<Self> {
        mesh.consumer(name)
    }
}

impl ::mesh_core::contract::Contract for FetchRequest {
    const FULL_NAME: &'static str = "parcel.v1.FetchRequest";
}

impl ::mesh_core::contract::Contract for FetchReply {
    const FULL_NAME: &'static str = "parcel.v1.FetchReply";
}

impl ::mesh_core::contract::Contract for TrackRequest {
    const FULL_NAME: &'static str = "parcel.v1.TrackRequest";
}

impl ::mesh_core::contract::Contract for TrackReply {
    const FULL_NAME: &'static str = "parcel.v1.TrackReply";
}

/// The operations of `parcel.v1.Carrier`.
pub mod carrier {
    /// Fetches one, see [the manual](<https://example.org/fetch>).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Fetch;

    impl ::mesh_core::contract::Operation for Fetch {
        type Request = super::FetchRequest;
        type Reply = super::FetchReply;
        const SERVICE: &'static str = "parcel.v1.Carrier";
        const METHOD: &'static str = "Fetch";
        const REPEAT: ::mesh_core::contract::Repeat = ::mesh_core::contract::Repeat::LookUp;

        fn key(request: &Self::Request) -> ::std::borrow::Cow<'_, str> {
            ::std::borrow::Cow::Owned(request.speed.to_string())
        }
    }

    /// The operation `parcel.v1.Carrier/Track`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Track;

    impl ::mesh_core::contract::Operation for Track {
        type Request = super::TrackRequest;
        type Reply = super::TrackReply;
        const SERVICE: &'static str = "parcel.v1.Carrier";
        const METHOD: &'static str = "Track";
        const REPEAT: ::mesh_core::contract::Repeat = ::mesh_core::contract::Repeat::Idempotent;

        fn key(_request: &Self::Request) -> ::std::borrow::Cow<'_, str> {
            ::std::borrow::Cow::Borrowed("")
        }
    }

    /// The operation `parcel.v1.Carrier/Burn`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Burn;

    impl ::mesh_core::contract::Operation for Burn {
        type Request = super::TrackRequest;
        type Reply = super::TrackReply;
        const SERVICE: &'static str = "parcel.v1.Carrier";
        const METHOD: &'static str = "Burn";
        const REPEAT: ::mesh_core::contract::Repeat = ::mesh_core::contract::Repeat::Once;

        fn key(_request: &Self::Request) -> ::std::borrow::Cow<'_, str> {
            ::std::borrow::Cow::Borrowed("")
        }
    }
}

/// Asks for the operations of `parcel.v1.Carrier`: `call` answers now, `enqueue` has it done later.
#[derive(Debug, Clone)]
pub struct CarrierClient {
    mesh: ::mesh_core::Mesh,
}

impl CarrierClient {
    /// A client on this mesh.
    #[must_use]
    pub fn new(mesh: &::mesh_core::Mesh) -> Self {
        Self { mesh: mesh.clone() }
    }

    /// Fetches one, see [the manual](<https://example.org/fetch>).
    #[must_use]
    pub fn fetch(&self) -> ::mesh_core::OperationClient<carrier::Fetch> {
        self.mesh.operation()
    }

    /// The operation `parcel.v1.Carrier/Track`.
    #[must_use]
    pub fn track(&self) -> ::mesh_core::OperationClient<carrier::Track> {
        self.mesh.operation()
    }

    /// The operation `parcel.v1.Carrier/Burn`.
    #[must_use]
    pub fn burn(&self) -> ::mesh_core::OperationClient<carrier::Burn> {
        self.mesh.operation()
    }
}

/// Carries parcels.
///
/// Implement it to serve `parcel.v1.Carrier`; [`CarrierServer`] makes it a service of the mesh.
pub trait Carrier: Send + Sync + 'static {
    /// Fetches one, see [the manual](<https://example.org/fetch>).
    fn fetch(
        &self,
        cx: ::mesh_core::contract::Context,
        request: FetchRequest,
    ) -> impl ::std::future::Future<Output = ::std::result::Result<FetchReply, ::mesh_core::fault::Fault>> + Send;

    /// The operation `parcel.v1.Carrier/Track`.
    fn track(
        &self,
        cx: ::mesh_core::contract::Context,
        request: TrackRequest,
    ) -> impl ::std::future::Future<Output = ::std::result::Result<TrackReply, ::mesh_core::fault::Fault>> + Send;

    /// The operation `parcel.v1.Carrier/Burn`.
    fn burn(
        &self,
        cx: ::mesh_core::contract::Context,
        request: TrackRequest,
    ) -> impl ::std::future::Future<Output = ::std::result::Result<TrackReply, ::mesh_core::fault::Fault>> + Send;
}

/// An implementation of [`Carrier`], ready to be served.
#[derive(Debug, Clone)]
pub struct CarrierServer<T>(T);

impl<T: Carrier> CarrierServer<T> {
    /// Serves `inner`.
    #[must_use]
    pub fn new(inner: T) -> Self {
        Self(inner)
    }
}

impl<T: Carrier> ::mesh_core::contract::Service for CarrierServer<T> {
    fn name(&self) -> &str {
        "parcel.v1.Carrier"
    }

    fn operations(&self) -> ::std::vec::Vec<::mesh_core::contract::OperationInfo> {
        ::std::vec![
            <carrier::Fetch as ::mesh_core::contract::Operation>::info(),
            <carrier::Track as ::mesh_core::contract::Operation>::info(),
            <carrier::Burn as ::mesh_core::contract::Operation>::info(),
        ]
    }

    fn dispatch<'a>(
        &'a self,
        method: &'a str,
        cx: ::mesh_core::contract::Context,
        payload: ::mesh_core::contract::generated::bytes::Bytes,
    ) -> ::mesh_core::contract::BoxFuture<'a, ::std::result::Result<::mesh_core::contract::generated::bytes::Bytes, ::mesh_core::fault::Fault>> {
        ::std::boxed::Box::pin(async move {
            match method {
                "Fetch" => {
                    let request = ::mesh_core::contract::generated::decode(payload)?;
                    let reply = self.0.fetch(cx, request).await?;
                    ::std::result::Result::Ok(::mesh_core::contract::generated::encode(&reply))
                }
                "Track" => {
                    let request = ::mesh_core::contract::generated::decode(payload)?;
                    let reply = self.0.track(cx, request).await?;
                    ::std::result::Result::Ok(::mesh_core::contract::generated::encode(&reply))
                }
                "Burn" => {
                    let request = ::mesh_core::contract::generated::decode(payload)?;
                    let reply = self.0.burn(cx, request).await?;
                    ::std::result::Result::Ok(::mesh_core::contract::generated::encode(&reply))
                }
                _ => ::std::result::Result::Err(::mesh_core::contract::generated::unknown_method("parcel.v1.Carrier", method)),
            }
        })
    }
}
