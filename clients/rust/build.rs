//! Generates the stubs. Needs protoc (Debian: protobuf-compiler), on PATH or named by $PROTOC.

const PROTOS: &str = "../../protos"; // where you keep yours

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed={PROTOS}");
    tonic_prost_build::configure()
        .build_server(false)
        .compile_protos(&["grpc_service.proto", "health.proto"], &[PROTOS])
}
