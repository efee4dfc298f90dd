//! The decoder gives the same pixels on any machine. Its options cannot turn its vector instructions off, so what they must give
//! is pinned: a machine that has others, or none, compares by running this test. (Built without zune-jpeg's feature `x86`, all
//! digests are the same.)

use std::path::Path;

use super::super::testing::whole;
use super::*;

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn pixels_are_the_same_on_any_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/resize");
    for (name, rgb, gray) in [
        ("photo-420", 0x1bc9_2052_bd2f_f95e, 0x4298_ca2b_3db4_a38d),
        ("photo-422", 0x6139_fcbb_1795_3c75, 0x268d_d3b6_7243_2784),
        ("photo-444", 0xa78d_b14a_7b5d_b9b8, 0xd0a9_1c4b_d8ae_189c),
        (
            "photo-progressive",
            0x2b39_b7a5_a7b3_f6f5,
            0xf4f3_2b1a_48cf_27f5,
        ),
        ("photo-gray", 0x515e_2a68_90c2_12f9, 0x4298_ca2b_3db4_a38d),
    ] {
        let bytes = std::fs::read(folder.join(format!("{name}.jpg"))).unwrap();
        for (channels, expected) in [(3, rgb), (1, gray)] {
            let mut decoder = ZuneDecoder::new(channels, 1 << 20);
            let found = digest(decoder.decode(&bytes, &mut whole).unwrap().pixels);
            assert_eq!(found, expected, "{name} in {channels} channels: {found:#x}");
        }
    }
}
