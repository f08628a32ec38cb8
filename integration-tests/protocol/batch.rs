//! Record batches (magic 2) built field by field, so that any of them can be wrong, and read back.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};

/// How a batch's records are compressed, numbered as in its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// A batch to be encoded. The defaults are those of a plain producer.
#[derive(Clone, Debug)]
pub struct Batch {
    pub records: Vec<(i64, Bytes, Bytes)>,
    pub codec: Codec,
    pub magic: i8,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// What the header says instead of the number of records.
    pub record_count: Option<i32>,
    /// What the header says instead of the number of records less one.
    pub last_offset_delta: Option<i32>,
    /// What the header says instead of the records' largest timestamp.
    pub max_timestamp: Option<i64>,
    /// Whether the checksum is wrong by a bit.
    pub has_wrong_crc: bool,
    /// Whether keys are null instead of what the records say.
    pub has_null_keys: bool,
    /// Whether its largest timestamp claims to be the broker's, and to hold for every record.
    pub claims_append_time: bool,
    /// What stands for the records, whatever the codec makes of it.
    pub body: Option<Bytes>,
}

/// Where the CRC stands in a batch, and where the bytes that it covers begin.
const CRC_AT: usize = 17;
const CRC_COVERS_FROM: usize = 21;
const HEADER_BYTES: usize = 61;

impl Batch {
    /// A batch of values without keys, a millisecond apart from `1_700_000_000_000` on.
    pub fn of<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Batch {
        let records = values
            .into_iter()
            .enumerate()
            .map(|(at, value)| {
                let timestamp = 1_700_000_000_000 + i64::try_from(at).expect("few records");
                (timestamp, Bytes::new(), Bytes::copy_from_slice(value.as_ref()))
            })
            .collect();
        Batch {
            records,
            codec: Codec::None,
            magic: 2,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: None,
            last_offset_delta: None,
            max_timestamp: None,
            has_wrong_crc: false,
            has_null_keys: false,
            claims_append_time: false,
            body: None,
        }
    }

    /// One record of `bytes` bytes.
    pub fn of_size(bytes: usize) -> Batch {
        Batch::of([vec![b'x'; bytes]])
    }

    /// As an idempotent producer sends it.
    pub fn by_producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Batch {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    /// With compressed records.
    pub fn compressed(mut self, codec: Codec) -> Batch {
        self.codec = codec;
        self
    }

    /// With these timestamps, one for each record.
    pub fn at(mut self, timestamps: &[i64]) -> Batch {
        assert_eq!(timestamps.len(), self.records.len());
        for (record, timestamp) in self.records.iter_mut().zip(timestamps) {
            record.0 = *timestamp;
        }
        self
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Bytes {
        let count = i32::try_from(self.records.len()).expect("few records");
        let first_timestamp = self.records.first().map_or(-1, |record| record.0);
        let largest = self.records.iter().map(|record| record.0).max().unwrap_or(-1);
        let max_timestamp = self.max_timestamp.unwrap_or(largest);
        let mut records = Vec::new();
        for (delta, (timestamp, key, value)) in (0..).zip(&self.records) {
            let mut record = vec![0];
            put_varint(&mut record, timestamp - first_timestamp);
            put_varint(&mut record, delta);
            match self.has_null_keys {
                true => put_varint(&mut record, -1),
                false => put_bytes(&mut record, key),
            }
            put_bytes(&mut record, value);
            put_varint(&mut record, 0);
            put_bytes(&mut records, &record);
        }
        let compressed = || compress(self.codec, &records).into();
        let records = self.body.clone().unwrap_or_else(compressed);
        let attributes = self.codec as i16 | i16::from(self.claims_append_time) << 3;
        let length = i32::try_from(HEADER_BYTES - 12 + records.len()).expect("a small batch");
        let mut batch = Vec::with_capacity(HEADER_BYTES + records.len());
        batch.extend_from_slice(&0_i64.to_be_bytes());
        batch.extend_from_slice(&length.to_be_bytes());
        batch.extend_from_slice(&(-1_i32).to_be_bytes());
        batch.extend_from_slice(&self.magic.to_be_bytes());
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&attributes.to_be_bytes());
        batch.extend_from_slice(&self.last_offset_delta.unwrap_or(count - 1).to_be_bytes());
        batch.extend_from_slice(&first_timestamp.to_be_bytes());
        batch.extend_from_slice(&max_timestamp.to_be_bytes());
        batch.extend_from_slice(&self.producer_id.to_be_bytes());
        batch.extend_from_slice(&self.producer_epoch.to_be_bytes());
        batch.extend_from_slice(&self.base_sequence.to_be_bytes());
        batch.extend_from_slice(&self.record_count.unwrap_or(count).to_be_bytes());
        batch.extend_from_slice(&records);
        let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]) ^ u32::from(self.has_wrong_crc);
        batch[CRC_AT..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
        batch.into()
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub timestamp: i64,
    pub value: Bytes,
}

/// The offset after the last whole batch in `bytes`, records or not: compaction leaves batches that
/// hold none.
pub fn next_offset(mut bytes: &[u8]) -> Option<i64> {
    let mut next = None;
    while bytes.len() >= HEADER_BYTES {
        let size = 12 + usize::try_from((&bytes[8..12]).get_i32()).expect("a batch length");
        if bytes.len() < size {
            break;
        }
        next = Some((&bytes[..8]).get_i64() + i64::from((&bytes[23..27]).get_i32()) + 1);
        bytes = &bytes[size..];
    }
    next
}

/// The records of all whole batches in `bytes`, control batches left out. A fetch may end in the
/// middle of a batch; what it holds before that must be right, CRC included.
#[track_caller]
pub fn read(mut bytes: Bytes) -> Vec<Record> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let length = (&bytes[8..12]).get_i32();
        let size = 12 + usize::try_from(length).expect("a batch length");
        if bytes.len() < size {
            break;
        }
        let batch = bytes.split_to(size);
        let crc = (&batch[CRC_AT..]).get_u32();
        assert_eq!(crc32c::crc32c(&batch[CRC_COVERS_FROM..]), crc, "a fetched batch's CRC");
        read_batch(&batch, &mut found);
    }
    found
}

fn read_batch(batch: &Bytes, found: &mut Vec<Record>) {
    let mut header = &batch[..HEADER_BYTES];
    let base_offset = header.get_i64();
    header.advance(4 + 4 + 1 + 4);
    let attributes = header.get_i16();
    header.advance(4);
    let first_timestamp = header.get_i64();
    let max_timestamp = header.get_i64();
    header.advance(8 + 2 + 4);
    let count = header.get_i32();
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const CONTROL: i16 = 1 << 5;
    if attributes & CONTROL != 0 {
        return;
    }
    let records = decompress(attributes & 7, &batch[HEADER_BYTES..]);
    let mut rest = records.as_slice();
    for _ in 0..count {
        let _length = varint(&mut rest);
        rest.advance(1);
        let mut timestamp = first_timestamp + varint(&mut rest);
        // The broker stamps a batch as a whole, and leaves its records alone.
        if attributes & LOG_APPEND_TIME != 0 {
            timestamp = max_timestamp;
        }
        let offset = base_offset + varint(&mut rest);
        let _key = take_bytes(&mut rest);
        let value = take_bytes(&mut rest);
        for _ in 0..varint(&mut rest) {
            let (_name, _value) = (take_bytes(&mut rest), take_bytes(&mut rest));
        }
        found.push(Record { offset, timestamp, value });
    }
    assert!(rest.is_empty(), "bytes follow a batch's last record");
}

/// A body of `records` as a producer compresses it.
pub fn compress(codec: Codec, records: &[u8]) -> Vec<u8> {
    let written = match codec {
        Codec::None => Ok(records.to_vec()),
        Codec::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            writer.write_all(records).and_then(|()| writer.finish())
        }
        // Raw snappy, as librdkafka writes it.
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(records).map_err(Into::into),
        Codec::Lz4 => {
            let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            writer.write_all(records).and_then(|()| writer.finish().map_err(Into::into))
        }
        Codec::Zstd => zstd::encode_all(records, 1),
    };
    written.unwrap_or_else(|error| panic!("{codec:?}: {error}"))
}

fn decompress(codec: i16, bytes: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let read = match codec {
        0 => {
            records.extend_from_slice(bytes);
            Ok(())
        }
        1 => flate2::read::GzDecoder::new(bytes).read_to_end(&mut records).map(drop),
        // As Java's library frames it: a header of 16 bytes, then blocks with their lengths.
        2 if bytes.starts_with(b"\x82SNAPPY\0") => {
            let mut blocks = &bytes[16..];
            while blocks.has_remaining() {
                let length = blocks.get_u32() as usize;
                let block = blocks.copy_to_bytes(length);
                records.extend(snap::raw::Decoder::new().decompress_vec(&block).expect("a block"));
            }
            Ok(())
        }
        2 => snap::raw::Decoder::new()
            .decompress_vec(bytes)
            .map(|read| records = read)
            .map_err(Into::into),
        3 => lz4_flex::frame::FrameDecoder::new(bytes).read_to_end(&mut records).map(drop),
        4 => zstd::decode_all(bytes).map(|read| records = read),
        _ => panic!("codec {codec}"),
    };
    read.unwrap_or_else(|error| panic!("codec {codec}: {error}"));
    records
}

/// Appends a zigzag varint.
pub fn put_varint(to: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        to.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    to.push(zigzag as u8);
}

/// Appends bytes behind their length.
pub fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, i64::try_from(bytes.len()).expect("few bytes"));
    to.extend_from_slice(bytes);
}

fn varint(from: &mut &[u8]) -> i64 {
    let (mut zigzag, mut shift) = (0_u64, 0);
    loop {
        let byte = from.get_u8();
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        }
        shift += 7;
    }
}

/// Bytes behind their length; a null reads as empty.
fn take_bytes(from: &mut &[u8]) -> Bytes {
    let length = usize::try_from(varint(from)).unwrap_or(0);
    let taken = Bytes::copy_from_slice(&from[..length]);
    from.advance(length);
    taken
}
