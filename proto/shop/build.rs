//! Compiles the shop's contracts.

fn main() -> Result<(), mesh_build::Error> {
    let files = [
        "proto/shop/orders/v1/orders.proto",
        "proto/shop/payments/v1/payments.proto",
        "proto/shop/notifications/v1/notifications.proto",
        "proto/shop/catalogue/v1/catalogue.proto",
    ];
    mesh_build::compile(&files, &["proto"])
}
