//! The catalogue: what an article costs now.

use mesh_core::{Mesh, contract::Context, fault::Fault};
use shop_proto::shop::catalogue::v1::{Catalogue, CatalogueServer, GetPriceReply, GetPriceRequest};

/// The articles and their prices in cents.
pub const PRICES: [(&str, i64); 6] = [
    ("cd-blue-train", 1177),
    ("cd-kind-of-blue", 1200),
    ("cd-a-love-supreme", 1277),
    ("cd-goldberg-variations", 1477),
    ("cd-the-koeln-concert", 1649),
    ("cd-box-of-ten", 7700),
];

const CURRENCY: &str = "USD";

/// Starts the service: it answers calls.
///
/// # Errors
/// The bus can't be reached.
pub async fn start(mesh: &Mesh) -> Result<(), Fault> {
    mesh.serve(CatalogueServer::new(Table)).work(false).start().await
}

struct Table;

impl Catalogue for Table {
    async fn get_price(&self, _cx: Context, request: GetPriceRequest) -> Result<GetPriceReply, Fault> {
        price(&request.sku)
    }
}

fn price(sku: &str) -> Result<GetPriceReply, Fault> {
    let found = PRICES.iter().find(|(known, _)| *known == sku);
    let (sku, price_cents) = found.ok_or_else(|| Fault::not_found(format!("there is no article {sku:?}")))?;
    Ok(GetPriceReply { sku: (*sku).to_owned(), price_cents: *price_cents, currency: CURRENCY.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fault::Code;

    #[test]
    fn known_articles_have_a_price_and_others_are_not_found() {
        assert_eq!(price("cd-blue-train").unwrap().price_cents, 1177);
        assert_eq!(price("cd-nothing").unwrap_err().code(), Code::NotFound);
    }
}
