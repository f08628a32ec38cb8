use super::*;
use crate::log::config::Codec;
use crate::log::format::batch::{BatchHeader, HEADER_BYTES, NewRecord, encode};
use crate::log::format::compression;
use crate::log::format::inflating::Inflating;
use crate::log::format::varint::{self, Cursor};

const CODECS: [Codec; 4] = [Codec::Gzip(1), Codec::Snappy, Codec::Lz4, Codec::Zstd(1)];

/// A record field by field, so that any of them can be wrong.
#[derive(Clone, Default)]
struct Fields {
    length: Option<i64>,
    delta: i64,
    key: Option<i64>,
    value: Option<i64>,
    headers: Option<Vec<u8>>,
    extra: &'static [u8],
}

impl Fields {
    fn encode(&self) -> Vec<u8> {
        let mut fields = vec![0];
        varint::put(&mut fields, 5);
        varint::put(&mut fields, self.delta);
        for length in [self.key, self.value] {
            match length {
                None => varint::put_nullable(&mut fields, Some(b"abc")),
                Some(length) => varint::put(&mut fields, length),
            }
        }
        match &self.headers {
            None => varint::put(&mut fields, 0),
            Some(headers) => fields.extend_from_slice(headers),
        }
        fields.extend_from_slice(self.extra);
        let mut record = Vec::new();
        varint::put(&mut record, self.length.unwrap_or(fields.len() as i64));
        record.extend_from_slice(&fields);
        record
    }
}

fn varints(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| varint::put(&mut out, *value));
    out
}

fn header(count: i32) -> BatchHeader {
    let batch = encode(&[NewRecord::default()], None);
    BatchHeader { record_count: count, ..BatchHeader::parse(&batch).unwrap() }
}

/// The outcome for a body as it is, and the same under every codec.
#[track_caller]
fn walked(count: i32, body: &[u8]) -> Result<Vec<i32>, Broken> {
    let header = header(count);
    let mut deltas = Vec::new();
    let outcome =
        walk(&header, &mut Cursor::new(body), |_, layout| deltas.push(layout.offset_delta));
    let outcome = outcome.map(|()| deltas);
    for codec in CODECS {
        let mut deflated = Vec::new();
        compression::deflate(codec, body, &mut deflated).unwrap();
        let mut input = Inflating::new(codec.number(), &deflated, 1 << 20).unwrap();
        let mut deltas = Vec::new();
        let same = walk(&header, &mut input, |_, layout| deltas.push(layout.offset_delta));
        let same = same.map(|()| deltas);
        // What is not there is known at once only where nothing has to be inflated.
        let is_length = |outcome: &Result<_, Broken>| match outcome {
            Err(broken) => matches!(broken.fault, Fault::Length(0..)),
            Ok(_) => false,
        };
        match is_length(&outcome) {
            true => assert!(same.is_err(), "{codec:?}"),
            false => assert_eq!(same, outcome, "{codec:?}"),
        }
    }
    outcome
}

#[track_caller]
fn fault(fields: &Fields) -> Fault {
    walked(1, &fields.encode()).unwrap_err().fault
}

#[test]
fn records_as_producers_send_them_pass() {
    let two = [Fields::default(), Fields { delta: 1, ..Fields::default() }];
    let body: Vec<u8> = two.iter().flat_map(Fields::encode).collect();
    assert_eq!(walked(2, &body), Ok(vec![0, 1]));
    let nulls = Fields { key: Some(-1), value: Some(-1), ..Fields::default() };
    assert_eq!(walked(1, &nulls.encode()), Ok(vec![0]));
    // One header, with an empty name and a null value.
    let headers = Fields { headers: Some(varints(&[1, 0, -1])), ..Fields::default() };
    assert_eq!(walked(1, &headers.encode()), Ok(vec![0]));
}

#[test]
fn each_fault_is_found_where_it_is() {
    let default = Fields::default;
    let whole = default().encode().len() as i64;
    for (fields, expected) in [
        (Fields { length: Some(-1), ..default() }, Fault::Length(-1)),
        (Fields { length: Some(100), ..default() }, Fault::Length(100)),
        (Fields { length: Some(whole - 2), ..default() }, Fault::LengthOfFields),
        (Fields { extra: b"\0", ..default() }, Fault::LengthOfFields),
        (Fields { delta: 1, ..default() }, Fault::OffsetDelta(1)),
        (Fields { delta: -1, ..default() }, Fault::OffsetDelta(-1)),
        (Fields { key: Some(-2), ..default() }, Fault::KeyLength(-2)),
        (Fields { key: Some(100), ..default() }, Fault::KeyLength(100)),
        (Fields { value: Some(-2), ..default() }, Fault::ValueLength(-2)),
        (Fields { value: Some(i64::from(i32::MAX)), ..default() }, Fault::ValueLength(i32::MAX)),
        (Fields { headers: Some(varints(&[-1])), ..default() }, Fault::HeaderCount(-1)),
        (Fields { headers: Some(varints(&[1])), ..default() }, Fault::HeaderCount(1)),
        (Fields { headers: Some(varints(&[1, -1, 0])), ..default() }, Fault::HeaderNameLength(-1)),
        (Fields { headers: Some(varints(&[1, -2, 0])), ..default() }, Fault::HeaderNameLength(-2)),
        (Fields { headers: Some(varints(&[1, 0, -2])), ..default() }, Fault::HeaderValueLength(-2)),
        (Fields { headers: Some(varints(&[1, 0, 50])), ..default() }, Fault::HeaderValueLength(50)),
    ] {
        assert_eq!(fault(&fields), expected);
    }
    let endless = [&[0x80; 5][..], &default().encode()].concat();
    assert_eq!(walked(1, &endless).unwrap_err().fault, Fault::EndlessLength);
}

#[test]
fn the_number_of_records_must_be_what_the_header_says() {
    let body = [Fields::default(), Fields { delta: 1, ..Fields::default() }].map(|f| f.encode());
    let body = body.concat();
    assert_eq!(walked(1, &body), Err(Broken { index: 0, fault: Fault::Trailing }));
    let ends = Fault::Read(ReadFault::Ends);
    assert_eq!(walked(3, &body), Err(Broken { index: 2, fault: ends }));
    let trailing = [&body[..], b"\0"].concat();
    assert_eq!(walked(2, &trailing), Err(Broken { index: 1, fault: Fault::Trailing }));
    for cut in 1..body.len() {
        assert!(walked(2, &body[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_body_that_inflates_beyond_the_bound_is_given_up_at_the_bound() {
    let value = vec![0; 100_000];
    let mut body = Vec::new();
    for _ in 0..100 {
        varint::put_nullable(&mut body, Some(&value));
    }
    for codec in CODECS {
        let mut deflated = Vec::new();
        compression::deflate(codec, &body, &mut deflated).unwrap();
        let mut input = Inflating::new(codec.number(), &deflated, 1 << 20).unwrap();
        assert_eq!(input.skip(body.len()), Err(ReadFault::TooLarge), "{codec:?}");
        assert!(input.position() <= (1 << 20) + (64 << 10), "{codec:?}");
        let mut input = Inflating::new(codec.number(), &deflated, body.len()).unwrap();
        assert_eq!(input.skip(body.len()), Ok(()), "{codec:?}");
        assert_eq!(input.is_at_end(), Ok(true), "{codec:?}");
    }
}

#[test]
fn a_record_is_found_where_the_encoder_has_put_it() {
    let record = NewRecord {
        key: Some("key".into()),
        value: Some(vec![7; 300].into()),
        headers: vec![("a".to_owned(), None), ("b".to_owned(), Some("c".into()))],
        timestamp: Timestamp(77),
    };
    let batch = encode(&[record], None);
    let (header, body) = (BatchHeader::parse(&batch).unwrap(), &batch[HEADER_BYTES..]);
    let mut found = None;
    walk(&header, &mut Cursor::new(body), |_, layout| found = Some(*layout)).unwrap();
    let found = found.unwrap();
    let slice = |part: Option<(usize, usize)>| part.map(|(from, bytes)| &body[from..from + bytes]);
    assert_eq!(slice(found.key), Some(&b"key"[..]));
    assert_eq!(slice(found.value), Some(&[7; 300][..]));
    assert_eq!((found.start, found.end), (0, body.len()));
    assert_eq!(body[found.headers..], *b"\x04\x02a\x01\x02b\x02c");
    assert_eq!(found.timestamp(&header), Timestamp(77));
}
