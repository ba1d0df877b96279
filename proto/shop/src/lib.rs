//! The shop's contracts: orders, payments, notifications, catalogue.
//!
//! They are made with `mesh-build` exactly as a user makes theirs: a build script of a few lines, and one macro here.
//!
//! # What the contracts refuse
//!
//! Each pair differs in one word: the first compiles, the second does not.
//!
//! Only an event is published:
//!
//! ```
//! # use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeRequest};
//! fn publisher(mesh: &mesh_core::Mesh) {
//!     let _ = mesh.publisher::<OrderPlaced>();
//! }
//! ```
//! ```compile_fail,E0277
//! # use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeRequest};
//! fn publisher(mesh: &mesh_core::Mesh) {
//!     let _ = mesh.publisher::<ChargeRequest>();
//! }
//! ```
//!
//! An operation takes its own request:
//!
//! ```
//! # use shop_proto::shop::{notifications::v1::SendRequest, payments::v1::{ChargeRequest, PaymentsClient}};
//! fn enqueue(mesh: &mesh_core::Mesh) {
//!     let _ = PaymentsClient::new(mesh).charge().enqueue(&ChargeRequest::default());
//! }
//! ```
//! ```compile_fail,E0308
//! # use shop_proto::shop::{notifications::v1::SendRequest, payments::v1::{ChargeRequest, PaymentsClient}};
//! fn enqueue(mesh: &mesh_core::Mesh) {
//!     let _ = PaymentsClient::new(mesh).charge().enqueue(&SendRequest::default());
//! }
//! ```
//!
//! A reply goes to who asked, and can't be consumed:
//!
//! ```
//! # use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeReply};
//! fn consumer(mesh: &mesh_core::Mesh) {
//!     let _ = mesh.consumer::<OrderPlaced>("watch");
//! }
//! ```
//! ```compile_fail,E0277
//! # use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeReply};
//! fn consumer(mesh: &mesh_core::Mesh) {
//!     let _ = mesh.consumer::<ChargeReply>("watch");
//! }
//! ```
//!
//! A server answers every operation of its service:
//!
//! ```
//! # use mesh_core::{contract::Context, fault::Fault};
//! # use shop_proto::shop::payments::v1::{ChargeReply, ChargeRequest, Payments};
//! struct Till;
//! impl Payments for Till {
//!     async fn charge(&self, _cx: Context, _request: ChargeRequest) -> Result<ChargeReply, Fault> {
//!         Err(Fault::declined("we are closed"))
//!     }
//! }
//! ```
//! ```compile_fail,E0407
//! # use mesh_core::{contract::Context, fault::Fault};
//! # use shop_proto::shop::payments::v1::{ChargeReply, ChargeRequest, Payments};
//! struct Till;
//! impl Payments for Till {
//!     async fn refund(&self, _cx: Context, _request: ChargeRequest) -> Result<ChargeReply, Fault> {
//!         Err(Fault::declined("we are closed"))
//!     }
//! }
//! ```

mesh_core::include_contracts!();

#[cfg(test)]
mod tests {
    use std::future::Future;

    use mesh_core::{
        contract::{
            Catalog, Context, Contract, Event, Facts, Operation, Repeat, Service, catalog::key_of,
            generated::prost::Message,
        },
        envelope::TraceContext,
        fault::{Code, Effect, Fault, Reason},
    };

    use super::shop::{
        catalogue::v1::catalogue::GetPrice,
        notifications::v1::SendRequest,
        orders::v1::OrderPlaced,
        payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsServer, payments::Charge},
    };

    fn catalog() -> Catalog {
        Catalog::new([super::DESCRIPTORS, mesh_core::proto::DESCRIPTORS]).unwrap()
    }

    #[test]
    fn tools_read_from_descriptors_what_the_generated_code_says() {
        let catalog = catalog();
        assert_eq!(catalog.operation("shop.payments.v1.Payments/Charge").unwrap().info, Charge::info());
        assert_eq!(catalog.operation("shop.catalogue.v1.Catalogue.GetPrice").unwrap().info, GetPrice::info());
        assert_eq!(GetPrice::REPEAT, Repeat::NoSideEffects);
        assert_eq!(catalog.event(OrderPlaced::FULL_NAME).unwrap().producer, OrderPlaced::PRODUCER);
        assert_eq!(catalog.events().count(), 1);
        // The mesh has operations of its own beside those of the shop.
        let all = catalog.operations().map(|operation| operation.info.full_name());
        let (own, shop): (Vec<_>, Vec<_>) = all.partition(|name| name.starts_with("mesh."));
        assert_eq!(shop.len(), 3, "{shop:?}");
        assert!(!own.is_empty());
    }

    #[test]
    fn keys_are_the_same_for_typed_and_for_dynamic_messages() {
        let catalog = catalog();
        for id in ["", "00001", "käse"] {
            let order = OrderPlaced { customer_id: id.into(), order_id: "x".into(), ..Default::default() };
            let dynamic = catalog.decode(OrderPlaced::FULL_NAME, &order.encode_to_vec()).unwrap();
            assert_eq!(key_of(&dynamic), order.key());

            let charge = ChargeRequest { order_id: id.into(), customer_id: "x".into(), ..Default::default() };
            let dynamic = catalog.decode(ChargeRequest::FULL_NAME, &charge.encode_to_vec()).unwrap();
            assert_eq!(catalog.operation(&Charge::info().full_name()).unwrap().key_of(&dynamic), Charge::key(&charge));
        }
    }

    #[test]
    fn confidential_values_are_not_shown() {
        let request = SendRequest { order_id: "7".into(), to: "ada@example.org".into(), ..Default::default() };
        let shown = format!("{request:?}");
        assert!(shown.contains("\"7\"") && shown.contains("[personal]") && !shown.contains("ada"), "{shown}");
    }

    struct Till;

    impl Payments for Till {
        async fn charge(&self, _cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
            match request.amount_cents {
                0 => Err(Fault::declined("nothing to charge")),
                _ => Ok(ChargeReply { charge_id: request.order_id, status: "succeeded".into() }),
            }
        }
    }

    fn context() -> Context {
        Context::new(Facts {
            message_id: "shop/Charge/1".into(),
            caller: "shop".into(),
            idempotency_key: "1".into(),
            attempt: 1,
            deadline: None,
            trace: TraceContext::root(false),
            fence: None,
            is_call: true,
        })
    }

    /// The handlers here never wait, so one look is enough.
    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("the handler waits"),
        }
    }

    #[test]
    fn a_server_goes_from_bytes_to_bytes() {
        let server = PaymentsServer::new(Till);
        assert_eq!(server.name(), "shop.payments.v1.Payments");
        assert_eq!(server.operations(), [Charge::info()]);
        let request = ChargeRequest { order_id: "7".into(), amount_cents: 1, ..Default::default() };
        let reply = now(server.dispatch("Charge", context(), request.encode_to_vec().into())).unwrap();
        assert_eq!(ChargeReply::decode(reply).unwrap().charge_id, "7");
    }

    #[test]
    fn a_server_names_what_it_can_not_do() {
        let server = PaymentsServer::new(Till);
        let undecodable = now(server.dispatch("Charge", context(), b"\xff\xff".as_slice().into())).unwrap_err();
        assert_eq!(undecodable.reason(), Reason::Undecodable);
        assert_eq!((undecodable.code(), undecodable.effect()), (Code::InvalidArgument, Effect::None));
        assert!(undecodable.message().contains(ChargeRequest::FULL_NAME), "{undecodable}");

        let unknown = now(server.dispatch("Refund", context(), Vec::new().into())).unwrap_err();
        assert_eq!((unknown.code(), unknown.reason()), (Code::Unimplemented, Reason::Unimplemented));

        let declined = now(server.dispatch("Charge", context(), Vec::new().into())).unwrap_err();
        assert!(declined.is_answer(), "what the handler says passes unchanged");
    }
}
