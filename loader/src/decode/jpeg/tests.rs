use super::super::testing::{jpeg, picture};
use super::*;

fn example() -> Vec<u8> {
    jpeg(40, 24, &picture(40, 24, 1), |_| {})
}

/// Where the frame header's marker stands.
fn frame_at(bytes: &[u8]) -> usize {
    bytes
        .windows(2)
        .position(|pair| pair[0] == 0xff && (0xc0..=0xc2).contains(&pair[1]))
        .unwrap()
}

#[test]
fn size_is_read() {
    assert_eq!(
        inspect(&example()).unwrap().size,
        ImageSize {
            width: 40,
            height: 24
        }
    );
}

#[test]
fn any_cut_is_noticed() {
    let bytes = example();
    for length in 2..bytes.len() {
        assert_eq!(
            inspect(&bytes[..length]).unwrap_err(),
            BadImage::Truncated,
            "cut to {length}"
        );
    }
}

#[test]
fn bytes_after_the_end_are_allowed() {
    let mut bytes = example();
    bytes.extend(b"trailing");
    assert!(inspect(&bytes).is_ok());
}

#[test]
fn unsupported_kinds_are_named() {
    let mut bytes = example();
    let frame = frame_at(&bytes);
    for (code, word) in [
        (0xc3, "lossless"),
        (0xc9, "arithmetic"),
        (0xc5, "hierarchical"),
    ] {
        bytes[frame + 1] = code;
        assert!(inspect(&bytes).unwrap_err().to_string().contains(word));
    }
    bytes[frame + 1] = 0xc0;
    for (at, value, word) in [
        (4, 12, "12 bits"),
        (9, 4, "CMYK"),
        (9, 2, "2 components"),
        (6, 0, "after the data"),
    ] {
        let kept = bytes[frame + at];
        bytes[frame + at] = value;
        assert!(
            inspect(&bytes).unwrap_err().to_string().contains(word),
            "{word}"
        );
        bytes[frame + at] = kept;
    }
    assert!(inspect(&bytes).is_ok());
}

#[test]
fn progressive_with_restarts_is_refused_and_each_alone_is_not() {
    let pixels = picture(40, 24, 1);
    assert!(inspect(&jpeg(40, 24, &pixels, |encoder| encoder.set_progressive(true))).is_ok());
    assert!(inspect(&jpeg(40, 24, &pixels, |encoder| encoder.set_restart_interval(2))).is_ok());
    let both = jpeg(40, 24, &pixels, |encoder| {
        encoder.set_progressive(true);
        encoder.set_restart_interval(2);
    });
    assert!(inspect(&both).unwrap_err().to_string().contains("restart"));
}

#[test]
fn stray_bytes_are_corrupt() {
    let mut bytes = example();
    bytes.insert(2, 7);
    assert!(matches!(inspect(&bytes), Err(BadImage::Corrupt { .. })));
}
