//! A small real shop on the mesh: orders, payments, notifications, catalogue, and a till that asks for prices.
//!
//! Each service is one module with one function that starts it. They share contracts and nothing else: a service finds
//! another only over the bus.

pub mod catalogue;
pub mod notifications;
pub mod orders;
pub mod payments;
pub mod till;

/// The name of the shop's mesh file, for errors.
pub const MESH_FILE: &str = "services/shop/mesh.yaml";

/// The shop's mesh file: what each service does, and the adapters for the two vendors.
#[must_use]
pub const fn mesh_file() -> &'static str {
    include_str!("../mesh.yaml")
}

/// The vendor files of the shop: how its payments and notifications become calls of third-party HTTP APIs.
#[must_use]
pub const fn vendor_files() -> [(&'static str, &'static str); 2] {
    [("stripe.yaml", include_str!("../vendors/stripe.yaml")), ("courier.yaml", include_str!("../vendors/courier.yaml"))]
}

#[cfg(test)]
mod tests {
    use mesh_core::{config::mesh_file, contract::Catalog};

    #[test]
    fn the_mesh_file_fits_the_contracts() {
        let catalog = Catalog::new([shop_proto::DESCRIPTORS]).unwrap();
        let file = mesh_file::load(super::MESH_FILE, super::mesh_file(), &catalog).unwrap();
        assert_eq!(file.declarations.len(), 7);
        assert_eq!(file.declaration("payments").unwrap().enqueues.len(), 1);
    }
}
