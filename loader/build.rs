//! Compiles the C side of the `turbo` decoder against the libjpeg-turbo that `turbojpeg-sys` has built.

fn main() {
    println!("cargo::rerun-if-changed=src/decode/turbo");
    #[cfg(feature = "turbo")]
    {
        // Several folders are separated by commas.
        let include = std::env::var("DEP_TURBOJPEG_INCLUDE")
            .expect("turbojpeg-sys says where its headers are");
        cc::Build::new()
            .file("src/decode/turbo/turbo.c")
            .file("src/decode/turbo/entropy.c")
            .includes(include.split(','))
            .warnings(true)
            .opt_level(3)
            .compile("mae_turbo");
    }
}
