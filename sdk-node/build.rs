//! Tells the linker what Node brings along itself.

fn main() {
    napi_build::setup();
}
