//! Decoders give the same pixels on any machine. zune-jpeg's options cannot turn its vector instructions off, so what it must give is
//! pinned: a machine that has others, or none, compares by running these tests. (Built without zune-jpeg's feature `x86`, the digests
//! are the same.) libjpeg-turbo is compared by running them with JSIMD_FORCENONE=1.

use std::path::Path;

use super::testing::whole;
use super::*;

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const FILES: [&str; 5] = [
    "photo-420",
    "photo-422",
    "photo-444",
    "photo-progressive",
    "photo-gray",
];

/// Of a file of `FILES`, what `plan` wants of it.
fn digest_of(decoder: &mut dyn Decoder, name: &str, plan: &mut Plan<'_>) -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/resize");
    let bytes = std::fs::read(folder.join(format!("{name}.jpg"))).unwrap();
    digest(decoder.decode(&bytes, plan).unwrap().pixels)
}

#[test]
fn zune_gives_the_same_pixels_on_any_machine() {
    let found = FILES.map(|name| {
        [3, 1].map(|channels| digest_of(&mut ZuneDecoder::new(channels, 1 << 20), name, &mut whole))
    });
    let pinned = [
        [0x1bc9_2052_bd2f_f95e, 0x4298_ca2b_3db4_a38d],
        [0x6139_fcbb_1795_3c75, 0x268d_d3b6_7243_2784],
        [0xa78d_b14a_7b5d_b9b8, 0xd0a9_1c4b_d8ae_189c],
        [0x2b39_b7a5_a7b3_f6f5, 0xf4f3_2b1a_48cf_27f5],
        [0x515e_2a68_90c2_12f9, 0x4298_ca2b_3db4_a38d],
    ];
    assert_eq!(found, pinned, "{found:#x?}");
}

/// Whole images, and crops at a smaller scale, which are other code.
#[cfg(feature = "turbo")]
#[test]
fn turbo_gives_the_same_pixels_on_any_machine() {
    let mut crop = |_| {
        Ok(Wanted {
            part: Rect {
                x: 31,
                y: 17,
                width: 143,
                height: 121,
            },
            size: ImageSize {
                width: 56,
                height: 56,
            },
        })
    };
    for quality in [DecodeQuality::Exact, DecodeQuality::Fast] {
        let found = FILES.map(|name| {
            let mut decoder = TurboDecoder::new(3, 1 << 20, quality);
            let all = digest_of(&mut decoder, name, &mut whole);
            [all, digest_of(&mut decoder, name, &mut crop)]
        });
        let pinned = match quality {
            DecodeQuality::Exact => [
                [0x49b4_249f_01b1_e38b, 0x1cb9_9802_8bd9_8e0b],
                [0x07b6_8b61_c6fa_e9ec, 0xd050_e3d2_c442_b369],
                [0xace4_c376_0e60_a595, 0xdab6_8bca_6a1d_feb8],
                [0x5ecd_1f99_6654_6c3e, 0x4e8b_d3db_7d7f_0a04],
                [0x376f_1bf0_d350_7ecf, 0x4bd6_a55c_44c8_d836],
            ],
            DecodeQuality::Fast => [
                [0x1db4_371f_23dd_de02, 0x86ec_c146_6d8c_78ae],
                [0xcfcc_1e79_c2b8_4d0f, 0x0992_48f5_0523_7d68],
                [0x893f_3137_1a7e_e206, 0xdab6_8bca_6a1d_feb8],
                [0x70f1_2440_3f67_7d15, 0xc4e4_a441_474d_39fc],
                [0xd220_01ec_2f9f_ac27, 0x4bd6_a55c_44c8_d836],
            ],
        };
        assert_eq!(found, pinned, "{quality:?}: {found:#x?}");
    }
}
