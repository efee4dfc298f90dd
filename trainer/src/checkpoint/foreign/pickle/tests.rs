use super::*;
use proptest::prelude::*;

fn root(bytes: &[u8]) -> Result<Value, PickleError> {
    let pickle = parse(bytes)?;
    Ok(pickle.value(pickle.root).clone())
}

#[test]
fn numbers_and_texts_are_read() {
    // pickle.dumps(…, protocol=2) of Python 3.11.
    assert_eq!(root(b"\x80\x02K\x07."), Ok(Value::Int(7)));
    assert_eq!(root(b"\x80\x02M\xe8\x03."), Ok(Value::Int(1000)));
    assert_eq!(root(b"\x80\x02J\xff\xff\xff\xff."), Ok(Value::Int(-1)));
    let long = b"\x80\x02\x8a\x05\x00\x00\x00\x00\x01.";
    assert_eq!(root(long), Ok(Value::Int(1 << 32)));
    let negative = b"\x80\x02\x8a\x05\x00\x00\x00\x00\xff.";
    assert_eq!(root(negative), Ok(Value::Int(-(1 << 32))));
    let float = b"\x80\x02G?\xf8\x00\x00\x00\x00\x00\x00.";
    assert_eq!(root(float), Ok(Value::Float(1.5)));
    assert_eq!(
        root(b"\x80\x02X\x03\x00\x00\x00a\xc3\xa9q\x00."),
        Ok(Value::Text("a\u{e9}".into()))
    );
}

#[test]
fn what_is_used_twice_is_the_same() {
    // x = []; [x, x], then appended to x through the memo.
    let pickle = parse(b"](]q\x00h\x00e.").unwrap();
    let ids = pickle.sequence(pickle.root).unwrap();
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_namespace_is_its_attributes() {
    // pickle.dumps(argparse.Namespace(model="m", lr=1), protocol=2)
    let bytes = b"\x80\x02cargparse\nNamespace\nq\x00)\x81q\x01}q\x02(X\x05\x00\x00\x00modelq\x03X\x01\x00\x00\x00mq\x04X\x02\x00\x00\x00lrq\x05K\x01ub.";
    let pickle = parse(bytes).unwrap();
    let (module, name, args) = pickle.call(pickle.root).unwrap();
    assert_eq!((module, name, args.len()), ("argparse", "Namespace", 0));
    let model = pickle.get(pickle.root, "model").unwrap();
    assert_eq!(pickle.text(model), Some("m"));
    assert_eq!(pickle.size(pickle.get(pickle.root, "lr").unwrap()), Some(1));
    assert_eq!(pickle.get(pickle.root, "other"), None);
}

#[test]
fn nothing_is_called() {
    // os.system("…") is a name and its argument.
    let pickle = parse(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.").unwrap();
    let (module, name, args) = pickle.call(pickle.root).unwrap();
    assert_eq!((module, name), ("os", "system"));
    assert_eq!(pickle.text(args[0]), Some("true"));
}

#[test]
fn what_is_broken_says_where() {
    for (bytes, at, what) in [
        (&b""[..], 0, "ends here"),
        (b"K", 0, "ends here"),
        (b"X\xff\xff\xff\xff", 0, "ends here"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", 0, "ends here"),
        (b"K\x01\x86.", 2, "a value is missing"),
        (b"K\x01(0.", 3, "a value is missing"),
        (b"K\x01t.", 2, "a mark is missing"),
        (b"h\x05.", 0, "never made"),
        (b"}(K\x01u.", 4, "key without a value"),
        (b"K\x01K\x02a.", 4, "no list"),
        (b"K\x01i", 2, "0x69"),
        (b"cos", 0, "does not end"),
    ] {
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.at, at, "{error}");
        assert!(error.what.contains(what), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    /// Of the instructions alone, which get further than random bytes.
    #[test]
    fn no_instructions_panic(picks in prop::collection::vec((0usize..48, 0u8..4), 0..120)) {
        let codes = b"\x80.(N\x88\x89KMJ\x8a\x8bGX\x8c\x8dUTCB\x8e\x96)\x85\x86\x87t]lae}dsu\x8f\x90\x91\x93R\x81\x92bQqrhj012";
        let mut bytes = vec![];
        for (code, argument) in picks {
            bytes.extend([codes[code % codes.len()], argument]);
        }
        if let Ok(pickle) = parse(&bytes) {
            prop_assert!(pickle.length <= bytes.len());
            prop_assert!(pickle.values.len() <= bytes.len());
            let _ = pickle.entries(pickle.root).count();
            let _ = pickle.call(pickle.root);
        }
    }
}
