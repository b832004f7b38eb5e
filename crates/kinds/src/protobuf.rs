//! Kubernetes protobuf request bodies, decoded to JSON objects by a table.
//!
//! ```text
//! "k8s\0" │ Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw, 3: encoding, 4: content type }
//!                                                              └─► MESSAGES[kind] ─► Value
//! ```
//!
//! Fields the table does not know are skipped, as protobuf asks. Depth and size are bounded and
//! nothing here panics on any input. Replies are JSON only: there is no encoder.
//!
//! Source: the protobuf encoding guide; k8s.io/apimachinery `runtime.Unknown`.

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Number, Value};
use thiserror::Error;

use crate::generated::messages::MESSAGES;
use crate::schema;

/// Largest body taken, in bytes: what Kubernetes allows a request.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Deepest nesting of messages.
const MAX_DEPTH: usize = 64;
const MAGIC: &[u8] = b"k8s\0";

/// One message type.
pub(crate) struct Message {
    pub name: &'static str,
    /// Sorted by tag.
    pub fields: &'static [Field],
}

pub(crate) struct Field {
    pub tag: u32,
    /// JSON name; empty for a message whose fields belong to the parent.
    pub name: &'static str,
    /// Go writes this field also when it is unset: zero and "" mean absent.
    pub omit_zero: bool,
    pub wire: Wire,
}

/// How a field lies on the wire and what JSON it becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    String,
    Int32,
    Int64,
    Bool,
    #[allow(dead_code, reason = "no kind that is served has one yet; the generator knows it")]
    Double,
    /// Base64 text in JSON.
    Bytes,
    /// Seconds and nanoseconds; RFC 3339 in JSON, an empty message is no time.
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// A message whose first field holds JSON text.
    RawJson,
    /// Index into `MESSAGES`.
    Object(usize),
    Inline(usize),
    List(&'static Wire),
    Map(&'static Wire),
}

/// Why a body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtobufError {
    #[error("protobuf body does not begin with the Kubernetes mark \"k8s\\0\"; send JSON or Kubernetes protobuf")]
    NoMark,
    #[error("protobuf body of {bytes} bytes is too large, the limit is {MAX_BYTES}")]
    TooLarge { bytes: usize },
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("protobuf body ends in the middle of {place}")]
    Truncated { place: &'static str },
    #[error("protobuf message {message}: field {tag} has wire type {wire_type}, which does not fit it")]
    WireType { message: &'static str, tag: u32, wire_type: u8 },
    #[error("protobuf message {message}: field {tag}: {problem}")]
    Content { message: &'static str, tag: u32, problem: &'static str },
    #[error("protobuf body is nested deeper than {MAX_DEPTH} messages")]
    TooDeep,
    #[error("protobuf body carries content type {content_type:?}, only protobuf and JSON are understood")]
    ContentType { content_type: String },
}

/// Decodes a whole request body into an object with `apiVersion` and `kind` set.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    if body.len() > MAX_BYTES {
        return Err(ProtobufError::TooLarge { bytes: body.len() });
    }
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMark)?)?;
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    let mut object = match envelope.content_type {
        "" | "application/vnd.kubernetes.protobuf" => decode_raw(&api_version, &kind, envelope.raw)?,
        "application/json" => raw_json(envelope.raw).ok_or(ProtobufError::Content {
            message: UNKNOWN,
            tag: 2,
            problem: "is not a JSON object",
        })?,
        other => {
            return Err(ProtobufError::ContentType { content_type: other.to_owned() });
        }
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn decode_raw(api_version: &str, kind: &str, raw: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let message = schema::type_of(api_version, kind)
        .and_then(|ty| MESSAGES.iter().find(|message| message.name == ty.name))
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let mut object = Map::new();
    decode_message(message, raw, &mut object, 0)?;
    Ok(object)
}

fn raw_json(raw: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(raw) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

const UNKNOWN: &str = "io.k8s.apimachinery.pkg.runtime.Unknown";

#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    content_type: &'a str,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Envelope::default();
        let mut reader = Reader { bytes };
        while let Some((tag, payload)) = reader.field()? {
            match (tag, payload) {
                (1, Payload::Bytes(meta)) => {
                    let mut inner = Reader { bytes: meta };
                    while let Some((tag, payload)) = inner.field()? {
                        match (tag, payload) {
                            (1, Payload::Bytes(text)) => envelope.api_version = utf8(text, UNKNOWN, 1)?.to_owned(),
                            (2, Payload::Bytes(text)) => envelope.kind = utf8(text, UNKNOWN, 1)?.to_owned(),
                            _ => {}
                        }
                    }
                }
                (2, Payload::Bytes(raw)) => envelope.raw = raw,
                (4, Payload::Bytes(text)) => envelope.content_type = utf8(text, UNKNOWN, 4)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn decode_message(
    message: &'static Message,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let mut reader = Reader { bytes };
    while let Some((tag, payload)) = reader.field()? {
        if let Ok(at) = message.fields.binary_search_by_key(&tag, |field| field.tag) {
            let spot = Spot { message: message.name, tag, depth };
            put(&message.fields[at], payload, into, spot)?;
        }
    }
    Ok(())
}

/// Where in the body we are, for errors and the depth limit.
#[derive(Clone, Copy)]
struct Spot {
    message: &'static str,
    tag: u32,
    depth: usize,
}

impl Spot {
    fn content(self, problem: &'static str) -> ProtobufError {
        ProtobufError::Content { message: self.message, tag: self.tag, problem }
    }

    fn wire_type(self, payload: Payload<'_>) -> ProtobufError {
        let wire_type = match payload {
            Payload::Varint(_) => 0,
            Payload::Fixed64(_) => 1,
            Payload::Bytes(_) => 2,
            Payload::Fixed32 => 5,
        };
        ProtobufError::WireType { message: self.message, tag: self.tag, wire_type }
    }
}

fn put(field: &Field, payload: Payload<'_>, into: &mut Map<String, Value>, spot: Spot) -> Result<(), ProtobufError> {
    match (field.wire, payload) {
        (Wire::Inline(index), Payload::Bytes(bytes)) => decode_message(&MESSAGES[index], bytes, into, spot.depth + 1),
        (Wire::Object(index), Payload::Bytes(bytes)) => {
            let entry = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let inner = entry.as_object_mut().expect("only this arm writes a field of this wire type");
            decode_message(&MESSAGES[index], bytes, inner, spot.depth + 1)
        }
        (Wire::List(item), payload) => {
            let entry = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let list = entry.as_array_mut().expect("only this arm writes a field of this wire type");
            extend_list(*item, payload, list, spot)
        }
        (Wire::Map(item), Payload::Bytes(bytes)) => {
            let entry = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let map = entry.as_object_mut().expect("only this arm writes a field of this wire type");
            insert_entry(*item, bytes, map, spot)
        }
        (wire, payload) => {
            let value = single(wire, payload, spot)?;
            match value {
                Value::Null => {}
                zero if field.omit_zero && is_zero(&zero) => {
                    into.remove(field.name);
                }
                value => {
                    into.insert(field.name.to_owned(), value);
                }
            }
            Ok(())
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// One more element, or a packed run of numbers.
fn extend_list(item: Wire, payload: Payload<'_>, list: &mut Vec<Value>, spot: Spot) -> Result<(), ProtobufError> {
    match (item, payload) {
        (Wire::Int32 | Wire::Int64 | Wire::Bool, Payload::Bytes(bytes)) => {
            let mut reader = Reader { bytes };
            while !reader.bytes.is_empty() {
                list.push(single(item, Payload::Varint(reader.varint()?), spot)?);
            }
            Ok(())
        }
        _ => {
            list.push(single(item, payload, spot)?);
            Ok(())
        }
    }
}

/// A map entry is a message of key (1) and value (2).
fn insert_entry(item: Wire, bytes: &[u8], map: &mut Map<String, Value>, spot: Spot) -> Result<(), ProtobufError> {
    let mut key = "";
    let mut value = single(item, Payload::Bytes(&[]), spot)?;
    let mut reader = Reader { bytes };
    while let Some((tag, payload)) = reader.field()? {
        match (tag, payload) {
            (1, Payload::Bytes(text)) => key = utf8(text, spot.message, spot.tag)?,
            (2, payload) => value = single(item, payload, spot)?,
            _ => {}
        }
    }
    map.insert(key.to_owned(), value);
    Ok(())
}

fn single(wire: Wire, payload: Payload<'_>, spot: Spot) -> Result<Value, ProtobufError> {
    match (wire, payload) {
        (Wire::Bool, Payload::Varint(number)) => Ok(Value::Bool(number != 0)),
        // Negative int32 values are sent as 64 bits; the low half is the number.
        (Wire::Int32, Payload::Varint(number)) => Ok(Value::from(number as i32)),
        (Wire::Int64, Payload::Varint(number)) => Ok(Value::from(number as i64)),
        (Wire::Double, Payload::Fixed64(bits)) => {
            let number = Number::from_f64(f64::from_bits(bits)).ok_or(spot.content("is not a finite number"))?;
            Ok(Value::Number(number))
        }
        (wire, Payload::Bytes(bytes)) => from_bytes(wire, bytes, spot),
        (_, payload) => Err(spot.wire_type(payload)),
    }
}

fn from_bytes(wire: Wire, bytes: &[u8], spot: Spot) -> Result<Value, ProtobufError> {
    match wire {
        Wire::String => utf8(bytes, spot.message, spot.tag).map(Value::from),
        Wire::Bytes => {
            serde_json::to_value(ByteString(bytes.to_vec())).map_err(|_| spot.content("cannot be written as base64"))
        }
        Wire::Object(index) => {
            let mut object = Map::new();
            decode_message(&MESSAGES[index], bytes, &mut object, spot.depth + 1)?;
            Ok(Value::Object(object))
        }
        Wire::Quantity => first_text(bytes, spot).map(Value::from),
        Wire::RawJson => match first_text(bytes, spot)? {
            "" => Ok(Value::Null),
            json => serde_json::from_str(json).map_err(|_| spot.content("is not JSON")),
        },
        Wire::IntOrString => int_or_string(bytes, spot),
        Wire::Time => time(bytes, spot, 0),
        Wire::MicroTime => time(bytes, spot, 6),
        _ => Err(spot.wire_type(Payload::Bytes(bytes))),
    }
}

/// Field 1 of a message, as text.
fn first_text(bytes: &[u8], spot: Spot) -> Result<&str, ProtobufError> {
    let mut found = "";
    let mut reader = Reader { bytes };
    while let Some((tag, payload)) = reader.field()? {
        if let (1, Payload::Bytes(text)) = (tag, payload) {
            found = utf8(text, spot.message, spot.tag)?;
        }
    }
    Ok(found)
}

/// Type (1: 0 number, 1 string), number (2), string (3).
fn int_or_string(bytes: &[u8], spot: Spot) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader { bytes };
    while let Some((tag, payload)) = reader.field()? {
        match (tag, payload) {
            (1, Payload::Varint(kind)) => is_text = kind == 1,
            (2, Payload::Varint(value)) => number = value as i32,
            (3, Payload::Bytes(value)) => text = utf8(value, spot.message, spot.tag)?,
            _ => {}
        }
    }
    match is_text {
        true => Ok(text.into()),
        false => Ok(number.into()),
    }
}

/// Seconds (1) and nanoseconds (2) since 1970; an empty message is Go's zero time: absent.
fn time(bytes: &[u8], spot: Spot, digits: usize) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader { bytes };
    while let Some((tag, payload)) = reader.field()? {
        match (tag, payload) {
            (1, Payload::Varint(value)) => seconds = value as i64,
            (2, Payload::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanos).map_err(|_| spot.content("is not a time of years 0 to 9999"))?;
    Ok(Value::from(format!("{at:.digits$}")))
}

fn utf8<'a>(bytes: &'a [u8], message: &'static str, tag: u32) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Content { message, tag, problem: "is not UTF-8" })
}

/// What lies behind a tag.
#[derive(Clone, Copy)]
enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next field, `None` at the end.
    fn field(&mut self) -> Result<Option<(u32, Payload<'a>)>, ProtobufError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| ProtobufError::Truncated { place: "a tag" })?;
        let payload = match (key & 7) as u8 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                Payload::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                self.array::<4>()?;
                Payload::Fixed32
            }
            wire_type => {
                return Err(ProtobufError::WireType { message: "(any)", tag, wire_type });
            }
        };
        Ok(Some((tag, payload)))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ProtobufError::Truncated { place: "a number of more than 64 bits" })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(ProtobufError::Truncated { place: "a number" })?;
        self.bytes = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (head, rest) =
            self.bytes.split_at_checked(length).ok_or(ProtobufError::Truncated { place: "a string or message" })?;
        self.bytes = rest;
        Ok(head)
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
