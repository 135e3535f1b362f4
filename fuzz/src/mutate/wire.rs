//! Mutations of protocol buffers: fields that come twice, are lacking, have other numbers, extreme values or false lengths, that
//! stand deep in each other, and long lists of nothing, which are what costs a reader most for the bytes that it got.

use rand::{Rng, RngExt};

use super::{of_bytes, place, stretch, text};

/// A field as it stands on the wire.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(Vec<u8>),
    Four([u8; 4]),
}

const EXTREMES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];
const DOUBLES: [f64; 8] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -0.0, -1.0, 1e300];
/// Deeper than any reader follows.
const DEPTH_MAX: usize = 300;
const LIST_MAX: usize = 3_000;

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `None`: it is no protocol buffer.
fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = vec![];
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Eight(*take(&mut bytes, 8)?.first_chunk()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            5 => Value::Four(*take(&mut bytes, 4)?.first_chunk()?),
            _ => return None,
        };
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn put(Field { number, value }: &Field, out: &mut Vec<u8>) {
    let kind = match value {
        Value::Varint(_) => 0,
        Value::Eight(_) => 1,
        Value::Bytes(_) => 2,
        Value::Four(_) => 5,
    };
    put_varint(number << 3 | kind, out);
    match value {
        Value::Varint(value) => put_varint(*value, out),
        Value::Eight(bytes) => out.extend(bytes),
        Value::Four(bytes) => out.extend(bytes),
        Value::Bytes(bytes) => {
            put_varint(bytes.len() as u64, out);
            out.extend(bytes);
        }
    }
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = vec![];
    fields.iter().for_each(|field| put(field, &mut out));
    out
}

pub(super) fn mutate(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    let Some(mut fields) = parse(bytes) else { return of_bytes(bytes, random) };
    // Down into a message as often as not, so that all depths get their share.
    let inside = fields.iter_mut().filter_map(|field| match &mut field.value {
        Value::Bytes(inner) if !inner.is_empty() && parse(inner).is_some() => Some(inner),
        _ => None,
    });
    let mut inside: Vec<_> = inside.collect();
    if !inside.is_empty() && random.random_ratio(2, 3) {
        let chosen = random.random_range(0..inside.len());
        mutate(inside[chosen], random);
        *bytes = encode(&fields);
    } else {
        *bytes = level(fields, random);
    }
}

/// Mutates one level.
fn level(mut fields: Vec<Field>, random: &mut impl Rng) -> Vec<u8> {
    let count = fields.len();
    if count == 0 || random.random_ratio(1, 6) {
        let number = random.random_range(1..=24);
        let field = match random.random_range(0..3) {
            0 => Field { number, value: Value::Varint(extreme(random)) },
            1 => Field { number, value: Value::Bytes(vec![]) },
            _ => return stuffed(fields, number, random),
        };
        fields.insert(place(count, random), field);
        return encode(&fields);
    }
    let at = random.random_range(0..count);
    match random.random_range(0..9) {
        0 => drop(fields.remove(at)),
        1 => {
            let times = if random.random_ratio(1, 8) { random.random_range(2..100) } else { 1 };
            let field = fields[at].clone();
            fields.splice(at..at, vec![field; times]);
        }
        2 => {
            let other = random.random_range(0..count);
            fields.swap(at, other);
        }
        3 => {
            fields[at].number =
                if random.random_ratio(1, 8) { extreme(random) >> 3 } else { random.random_range(1..=24) }
        }
        4 => return lie(&fields, at, random),
        5 => nest(&mut fields[at], random),
        _ => change(&mut fields[at].value, random),
    }
    encode(&fields)
}

/// A long list of nothing: what costs two bytes here may be a large structure there.
fn stuffed(mut fields: Vec<Field>, number: u64, random: &mut impl Rng) -> Vec<u8> {
    let number = fields.get(random.random_range(0..=fields.len())).map_or(number, |field| field.number);
    let empty = Field { number, value: Value::Bytes(vec![]) };
    fields.extend(vec![empty; random.random_range(2..LIST_MAX)]);
    encode(&fields)
}

fn change(value: &mut Value, random: &mut impl Rng) {
    match value {
        Value::Varint(value) if random.random() => *value = extreme(random),
        Value::Varint(value) => *value = value.wrapping_add_signed(random.random_range(-3..=3)),
        Value::Eight(bytes) if random.random() => {
            *bytes = DOUBLES[random.random_range(0..DOUBLES.len())].to_le_bytes();
        }
        Value::Eight(bytes) => *bytes = extreme(random).to_le_bytes(),
        Value::Four(bytes) => *bytes = (extreme(random) as u32).to_le_bytes(),
        Value::Bytes(bytes) if random.random() => text::mutate(bytes, random),
        Value::Bytes(bytes) => of_bytes(bytes, random),
    }
}

fn extreme(random: &mut impl Rng) -> u64 {
    match random.random_range(0..3) {
        0 => random.random_range(0..70_000),
        _ => EXTREMES[random.random_range(0..EXTREMES.len())],
    }
}

/// A length that says too much or too little, or a value of another kind than its key says.
fn lie(fields: &[Field], at: usize, random: &mut impl Rng) -> Vec<u8> {
    let mut out = encode(&fields[..at]);
    let kind = random.random_range(0..8);
    put_varint(fields[at].number << 3 | kind, &mut out);
    let length = if random.random() { extreme(random) } else { random.random_range(0..200) };
    put_varint(length, &mut out);
    if let Value::Bytes(bytes) = &fields[at].value {
        out.extend(&bytes[stretch(bytes.len(), random)]);
    }
    out.extend(encode(&fields[at + 1..]));
    out
}

/// The field within itself, again and again.
fn nest(field: &mut Field, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..DEPTH_MAX) {
        let inner = encode(std::slice::from_ref(field));
        field.value = Value::Bytes(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        let message = [8, 150, 1, 18, 2, 8, 1, 25, 1, 2, 3, 4, 5, 6, 7, 8, 37, 1, 2, 3, 4];
        let fields = parse(&message).expect("a protocol buffer");
        assert_eq!(fields.len(), 4);
        assert_eq!(encode(&fields), message);
        assert_eq!(parse(&[18, 5, 1]), None);
        assert_eq!(parse(&[0xff; 11]), None);
    }
}
