# One image for every part: the program `mesh` is each of them.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package mesh --bin mesh

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/mesh /usr/local/bin/mesh
COPY services/shop/mesh.yaml services/shop/vendors/stripe.yaml services/shop/vendors/courier.yaml /etc/mesh/
# The stand-in vendors speak plain HTTP on a network of their own; the files as they are refuse that.
RUN mkdir /etc/mesh/demo && for vendor in stripe courier; do \
      { echo "allow_http: true"; cat /etc/mesh/$vendor.yaml; } > /etc/mesh/demo/$vendor.yaml; done
USER 1000:1000
ENTRYPOINT ["/usr/local/bin/mesh"]
