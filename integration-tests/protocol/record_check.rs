//! What a broker says of records that are not what they, or their batch, say, and what it makes of a
//! largest timestamp that is wrong. Where the two brokers differ on purpose, the case says so.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, ProduceRequest};

use super::batch::{Batch, Codec, compress, put_bytes, put_varint};
use super::client::Client;
use super::requests::{Topic, append, fetch, fetched, offset_of, produce, produced, read_from};
use super::{Shared, broker, code};

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// A record field by field, so that any of them can be wrong.
#[derive(Clone, Default)]
struct Fields {
    /// Instead of the number of bytes.
    length: Option<Vec<u8>>,
    attributes: u8,
    timestamp_delta: Vec<u8>,
    offset_delta: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<u8>,
    extra: &'static [u8],
}

fn varints(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| put_varint(&mut out, *value));
    out
}

impl Fields {
    fn at(delta: i64) -> Fields {
        let mut key = Vec::new();
        put_bytes(&mut key, b"k");
        Fields {
            timestamp_delta: varints(&[0]),
            offset_delta: varints(&[delta]),
            value: key.clone(),
            key,
            headers: varints(&[0]),
            ..Fields::default()
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = vec![self.attributes];
        for part in
            [&self.timestamp_delta, &self.offset_delta, &self.key, &self.value, &self.headers]
        {
            fields.extend_from_slice(part);
        }
        fields.extend_from_slice(self.extra);
        match &self.length {
            None => {
                let mut record = Vec::new();
                put_bytes(&mut record, &fields);
                record
            }
            Some(length) => [&length[..], &fields].concat(),
        }
    }
}

/// What the records of a batch with `count` of them are, and the answer to it.
struct Case {
    what: &'static str,
    body: Vec<u8>,
    count: i32,
    expected: i16,
    /// Kafka's answer to the batch as it is, and to a compressed one, where they are others.
    kafka: Option<(i16, i16)>,
}

fn case(what: &'static str, body: Vec<u8>, count: i32, expected: i16) -> Case {
    Case { what, body, count, expected, kafka: None }
}

/// One record, changed.
fn one(what: &'static str, expected: i16, change: impl FnOnce(&mut Fields)) -> Case {
    let mut fields = Fields::at(0);
    change(&mut fields);
    case(what, fields.encode(), 1, expected)
}

impl Case {
    fn kafka_says(mut self, plain: i16, compressed: i16) -> Case {
        self.kafka = Some((plain, compressed));
        self
    }
}

fn cases() -> Vec<Case> {
    const INVALID: i16 = code::INVALID_RECORD;
    const UNKNOWN: i16 = code::UNKNOWN_SERVER_ERROR;
    const NONE: i16 = code::NONE;
    let two = [Fields::at(0).encode(), Fields::at(1).encode()].concat();
    let deltas = |deltas: [i64; 2]| deltas.map(|delta| Fields::at(delta).encode()).concat();
    let headers = |values: &[i64]| {
        let headers = varints(values);
        move |fields: &mut Fields| fields.headers = headers
    };
    let length = |length: i64| move |fields: &mut Fields| fields.length = Some(varints(&[length]));
    let whole = i64::try_from(Fields::at(0).encode().len() - 1).expect("a short record");
    vec![
        case("two records", two.clone(), 2, NONE),
        case("zeros", vec![0; 40], 2, INVALID),
        case("one record more than the batch says", two.clone(), 1, INVALID),
        case("one record less than the batch says", two.clone(), 3, INVALID),
        case("a byte behind the last record", [&two[..], b"\0"].concat(), 2, INVALID),
        case("a record cut short", two[..two.len() - 3].to_vec(), 2, INVALID),
        // Kafka stores these as they are, and consumers get an offset twice or never; compressed,
        // it fails to write them anew.
        case("offsets 0 and 2", deltas([0, 2]), 2, INVALID).kafka_says(NONE, UNKNOWN),
        case("offsets 1 and 0", deltas([1, 0]), 2, INVALID).kafka_says(NONE, UNKNOWN),
        case("offsets 0 and 0", deltas([0, 0]), 2, INVALID).kafka_says(NONE, UNKNOWN),
        case("offsets -1 and 0", deltas([-1, 0]), 2, INVALID).kafka_says(NONE, UNKNOWN),
        // Kafka stores these; librdkafka and sarama do not read them.
        one("a key of length -2", INVALID, |fields| fields.key = varints(&[-2]))
            .kafka_says(NONE, NONE),
        one("a value of length -2", INVALID, |fields| fields.value = varints(&[-2]))
            .kafka_says(NONE, NONE),
        one("a header's value of length -2", INVALID, headers(&[1, 0, -2])).kafka_says(NONE, NONE),
        one("a null key", NONE, |fields| fields.key = varints(&[-1])),
        one("a null value", NONE, |fields| fields.value = varints(&[-1])),
        one("a key longer than the record", INVALID, |fields| fields.key = varints(&[100])),
        one("a value longer than the record", INVALID, |fields| fields.value = varints(&[100])),
        one("a key of the largest length", INVALID, |fields| {
            fields.key = varints(&[i64::from(i32::MAX)]);
        }),
        one("a header with an empty name and a null value", NONE, headers(&[1, 0, -1])),
        one("-1 headers", INVALID, headers(&[-1])),
        one("a header that is not there", INVALID, headers(&[1])),
        one("more headers than bytes", INVALID, headers(&[i64::from(i32::MAX)])),
        one("a null header name", INVALID, headers(&[1, -1, 0])),
        one("a header name of length -2", INVALID, headers(&[1, -2, 0])),
        one("a header's value longer than the record", INVALID, headers(&[1, 0, 50])),
        // Of compressed records Kafka does not look at the length, which its consumers go by.
        one("a byte in the record that is no field", INVALID, |fields| fields.extra = b"\0"),
        one("a length below the fields'", INVALID, length(whole - 3)).kafka_says(INVALID, NONE),
        one("a length of 0", INVALID, length(0)).kafka_says(INVALID, NONE),
        one("a length of -1", INVALID, length(-1)).kafka_says(INVALID, NONE),
        one("a length above the fields'", INVALID, length(1_000_000)).kafka_says(INVALID, NONE),
        one("a length in more bytes than needed", NONE, |fields| {
            fields.length = Some(vec![0x80 | (whole as u8) << 1, 0x80, 0x80, 0x80, 0]);
        }),
        one("an offset delta in more bytes than needed", NONE, |fields| {
            fields.offset_delta = vec![0x80, 0];
        }),
        one("an offset delta that does not end", INVALID, |fields| {
            fields.offset_delta = vec![0x80; 6];
        }),
        one("a timestamp delta of ten bytes", NONE, |fields| {
            fields.timestamp_delta = [&[0x80; 9][..], &[0]].concat();
        }),
        one("a timestamp delta of eleven bytes", INVALID, |fields| {
            fields.timestamp_delta = [&[0x80; 10][..], &[0]].concat();
        }),
        one("attributes, of which there are none", NONE, |fields| fields.attributes = 0x7f),
    ]
}

/// The error for a batch whose body is `body` as it is.
#[track_caller]
fn send(client: &mut Client, topic: &Topic, codec: Codec, count: i32, body: Vec<u8>) -> i16 {
    let batch = Batch {
        body: Some(body.into()),
        record_count: Some(count),
        last_offset_delta: Some(count - 1),
        ..Batch::of(["the body counts"]).compressed(codec)
    };
    append(client, topic, &batch).0
}

/// Tells every expectation that is not met, not only the first one.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn compare(&mut self, what: &str, codec: Codec, answer: i16, expected: i16) {
        if answer != expected {
            self.0.push(format!("{what}, {codec:?}: error {answer}, expected {expected}"));
        }
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

#[test]
fn records_that_are_not_what_they_say_are_refused_under_every_codec() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let mut wrong = Wrong::default();
    for case in cases() {
        for codec in CODECS {
            let expected = match case.kafka {
                Some((plain, _)) if broker.is_reference() && codec == Codec::None => plain,
                Some((_, compressed)) if broker.is_reference() => compressed,
                _ => case.expected,
            };
            let body = compress(codec, &case.body);
            let answer = send(&mut client, &topic, codec, case.count, body);
            wrong.compare(case.what, codec, answer, expected);
        }
    }
    // An endless number where the length should be: Kafka has no word for that one.
    let endless = [&[0x80; 5][..], &Fields::at(0).encode()].concat();
    for codec in CODECS {
        let expected = match codec {
            Codec::None => code::UNKNOWN_SERVER_ERROR,
            _ => code::INVALID_RECORD,
        };
        let answer = send(&mut client, &topic, codec, 1, compress(codec, &endless));
        wrong.compare("a length that does not end", codec, answer, expected);
    }
    if !broker.is_reference() {
        let stored = read_from(&mut client, &topic, 0);
        let offsets: Vec<_> = stored.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (0..offsets.len() as i64).collect::<Vec<_>>());
    }
}

#[test]
fn bodies_that_the_codec_has_not_written_are_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let mut wrong = Wrong::default();
    let records = [Fields::at(0).encode(), Fields::at(1).encode()].concat();
    for codec in CODECS {
        let answer = send(&mut client, &topic, codec, 2, vec![0xee; 40]);
        wrong.compare("garbage", codec, answer, code::UNKNOWN_SERVER_ERROR);
        if codec == Codec::None {
            continue;
        }
        let answer = send(&mut client, &topic, codec, 2, records.clone());
        wrong.compare("records as they are", codec, answer, code::UNKNOWN_SERVER_ERROR);
        let whole = compress(codec, &records);
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            let answer = send(&mut client, &topic, codec, 2, whole[..cut].to_vec());
            wrong.compare("cut short", codec, answer, code::UNKNOWN_SERVER_ERROR);
        }
        let answer = send(&mut client, &topic, codec, 2, Vec::new());
        let expected = match codec {
            // Nothing holds nothing.
            Codec::Zstd => code::INVALID_RECORD,
            _ => code::UNKNOWN_SERVER_ERROR,
        };
        wrong.compare("nothing", codec, answer, expected);
        let answer = send(&mut client, &topic, codec, 2, compress(codec, b""));
        wrong.compare("nothing, compressed", codec, answer, code::INVALID_RECORD);
    }
    // Blocks that lean on each other, which Java's reader refuses.
    let frame = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
    let mut linked = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
    std::io::Write::write_all(&mut linked, &records).expect("a vector takes all");
    let linked = linked.finish().expect("a vector takes all");
    let answer = send(&mut client, &topic, Codec::Lz4, 2, linked);
    wrong.compare("linked blocks", Codec::Lz4, answer, code::UNKNOWN_SERVER_ERROR);
    // Two gzip members, which are one body.
    let members = [Fields::at(0), Fields::at(1)].map(|one| compress(Codec::Gzip, &one.encode()));
    let answer = send(&mut client, &topic, Codec::Gzip, 2, members.concat());
    wrong.compare("two members", Codec::Gzip, answer, code::NONE);
    // Behind the last member Kafka does not look; other readers than Java's fail on it.
    let trailing = [&compress(Codec::Gzip, &records)[..], b"zz"].concat();
    let answer = send(&mut client, &topic, Codec::Gzip, 2, trailing);
    let expected = if broker.is_reference() { code::NONE } else { code::UNKNOWN_SERVER_ERROR };
    wrong.compare("bytes behind it", Codec::Gzip, answer, expected);
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    i64::try_from(since.as_millis()).expect("a time that fits")
}

/// Batches of three records, at these times, whose headers say something else: as old versions of
/// sarama send them, as clients that write down the last record's time, and others.
fn misdated(broker: &Shared, times: [i64; 3], mut check: impl FnMut(&mut Client, &Topic)) {
    let mut client = broker.connect();
    for codec in CODECS {
        for says in [-1, times[2], 0, i64::MAX, i64::MIN] {
            let topic = Topic::create(&mut client);
            let batch = Batch::of(["a", "b", "c"]).at(&times).compressed(codec);
            let batch = Batch { max_timestamp: Some(says), ..batch };
            assert_eq!(append(&mut client, &topic, &batch), (code::NONE, 0), "{codec:?} {says}");
            check(&mut client, &topic);
        }
    }
}

#[test]
fn a_largest_timestamp_that_is_not_the_records_is_put_right() {
    let broker = broker();
    let now = now();
    misdated(&broker, [now - 1_000, now, now - 2_000], |client, topic| {
        let version = client.latest::<FetchRequest>();
        let answer = fetched(client.call(version, &fetch(version, topic, 0, 0)));
        let stored = answer.records.expect("records");
        assert_eq!(stored[35..43], now.to_be_bytes());
        // Reading them checks their CRC.
        let times: Vec<_> =
            read_from(client, topic, 0).iter().map(|record| record.timestamp).collect();
        assert_eq!(times, [now - 1_000, now, now - 2_000]);
    });
}

#[test]
fn consumers_that_start_at_a_time_find_records_whose_batch_is_misdated() {
    let broker = broker();
    let now = now();
    misdated(&broker, [now - 1_000, now, now - 2_000], |client, topic| {
        let version = client.latest::<ListOffsetsRequest>();
        for (time, found) in [(0, 0), (now - 1_000, 0), (now - 999, 1), (now, 1), (now + 1, -1)] {
            let answer = offset_of(client, version, topic, time);
            assert_eq!((answer.error_code, answer.offset), (code::NONE, found), "{time}");
        }
    });
}

#[test]
fn bounds_on_timestamps_hold_for_what_the_records_say() {
    const MINUTE: i64 = 60_000;
    let broker = broker();
    let mut client = broker.connect();
    let bounds = [
        ("message.timestamp.before.max.ms", "600000"),
        ("message.timestamp.after.max.ms", "600000"),
    ];
    let topic = Topic::create_configured(&mut client, 1, &bounds);
    let version = client.latest::<ProduceRequest>();
    for codec in CODECS {
        let now = now();
        for (times, at_fault) in [
            ([now, now + 20 * MINUTE, now], 1),
            ([now - 20 * MINUTE, now, now], 0),
            ([now, now, now - 20 * MINUTE], 2),
        ] {
            let batch = Batch::of(["a", "b", "c"]).at(&times).compressed(codec);
            let batch = Batch { max_timestamp: Some(now), ..batch };
            let request = produce(version, &topic, 0, -1, Some(batch.encode()));
            let answer = produced(client.call(version, &request));
            let faults: Vec<_> =
                answer.record_errors.iter().map(|fault| fault.batch_index).collect();
            let expected = (code::INVALID_TIMESTAMP, vec![at_fault]);
            assert_eq!((answer.error_code, faults), expected, "{codec:?}");
        }
        // And only for that.
        let batch = Batch::of(["a"]).at(&[now]).compressed(codec);
        let batch = Batch { max_timestamp: Some(now + 20 * MINUTE), ..batch };
        assert_eq!(append(&mut client, &topic, &batch).0, code::NONE, "{codec:?}");
    }
}

#[test]
fn requests_keep_their_order_whatever_the_check_of_each_takes() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<ProduceRequest>();
    // Few bytes that hold many, then a batch that is checked at once.
    let sent: Vec<_> = (0..40)
        .map(|at| {
            let value = format!("{at} {}", "x".repeat(500_000 * usize::from(at % 2 == 0)));
            let codec = CODECS[at % CODECS.len()];
            let batch = Batch::of([value]).compressed(codec).encode();
            client.send(version, &produce(version, &topic, 0, 1, Some(batch)))
        })
        .collect();
    for (at, correlation_id) in (0..).zip(sent) {
        let answer = produced(client.receive::<ProduceRequest>(version, correlation_id));
        assert_eq!((answer.error_code, answer.base_offset), (code::NONE, at));
    }
}

/// Only Ottla has a bound, which is why this one asks no reference.
#[test]
fn a_batch_that_inflates_beyond_all_bounds_is_refused() {
    let broker = broker();
    if broker.is_reference() {
        return;
    }
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    // 512 MiB of one value, in about 16 KiB.
    const VALUE_BYTES: i64 = 512 << 20;
    let mut head = vec![0];
    head.extend(varints(&[0, 0, -1, VALUE_BYTES]));
    let mut bomb = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
    let length = i64::try_from(head.len()).expect("few bytes") + VALUE_BYTES + 1;
    let mut write = |bytes: &[u8]| std::io::Write::write_all(&mut bomb, bytes).expect("a vector");
    write(&varints(&[length]));
    write(&head);
    let zeros = vec![0; 1 << 20];
    (0..VALUE_BYTES >> 20).for_each(|_| write(&zeros));
    write(&varints(&[0]));
    let bomb = bomb.finish().expect("a vector takes all");
    assert!(bomb.len() < 64 << 10, "{} bytes", bomb.len());
    let answer = send(&mut client, &topic, Codec::Zstd, 1, bomb);
    assert_eq!(answer, code::MESSAGE_TOO_LARGE);
    assert_eq!(append(&mut client, &topic, &Batch::of(["after it"])), (code::NONE, 0));
}
