//! Values on their way to the server and back, without a loss of precision.
//!
//! The driver speaks binary. What has a machine type here is read from its binary form; numbers and times of PostgreSQL's
//! own range are written out as the server would (ISO); everything else is asked for as text (see `query`).

use dm_core::{Error, Result, Value};
use sqlx::encode::IsNull;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Encode, Type, ValueRef};

/// Oids of built-in types: they never change.
pub(crate) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const BYTEA: u32 = 17;
    pub(crate) const CHAR: u32 = 18;
    pub(crate) const NAME: u32 = 19;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const TEXT: u32 = 25;
    pub(crate) const OID: u32 = 26;
    pub(crate) const JSON: u32 = 114;
    pub(crate) const XML: u32 = 142;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const UNKNOWN: u32 = 705;
    pub(crate) const BPCHAR: u32 = 1042;
    pub(crate) const VARCHAR: u32 = 1043;
    pub(crate) const DATE: u32 = 1082;
    pub(crate) const TIME: u32 = 1083;
    pub(crate) const TIMESTAMP: u32 = 1114;
    pub(crate) const TIMESTAMPTZ: u32 = 1184;
    pub(crate) const NUMERIC: u32 = 1700;
    pub(crate) const VOID: u32 = 2278;
    pub(crate) const UUID: u32 = 2950;
    pub(crate) const JSONB: u32 = 3802;
}

/// Whether a result of this type is read from its binary form here.
pub(crate) fn is_native(type_oid: u32) -> bool {
    use oid::*;
    matches!(
        type_oid,
        BOOL | BYTEA
            | CHAR
            | NAME
            | INT8
            | INT2
            | INT4
            | TEXT
            | OID
            | JSON
            | XML
            | FLOAT4
            | FLOAT8
            | UNKNOWN
            | BPCHAR
            | VARCHAR
            | DATE
            | TIME
            | TIMESTAMP
            | TIMESTAMPTZ
            | NUMERIC
            | VOID
            | UUID
            | JSONB
    )
}

/// Reads a result.
pub(crate) fn decode(value: PgValueRef<'_>, type_oid: u32) -> Result<Value> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let broken = || Error::internal("a value of the server's answer was not understood");
    let bytes = value.as_bytes().map_err(|_| broken())?;
    decode_bytes(bytes, type_oid).ok_or_else(broken)
}

fn decode_bytes(bytes: &[u8], type_oid: u32) -> Option<Value> {
    fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    let text = |bytes: &[u8]| Some(Value::Text(String::from_utf8(bytes.to_vec()).ok()?));
    let json = |bytes: &[u8]| {
        // A document whose numbers JSON here cannot hold exactly stays text.
        let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        match keeps_numbers(bytes) {
            true => Some(Value::Json(document)),
            false => text(bytes),
        }
    };
    Some(match type_oid {
        oid::BOOL => Value::Bool(fixed::<1>(bytes)? != [0]),
        oid::BYTEA => Value::Bytes(bytes.to_vec()),
        oid::CHAR => Value::Text(
            fixed::<1>(bytes)
                .map(|[b]| char::from(b))
                .filter(|c| *c != '\0')
                .map_or_else(String::new, String::from),
        ),
        oid::INT8 => Value::Int(i64::from_be_bytes(fixed(bytes)?)),
        oid::INT2 => Value::Int(i16::from_be_bytes(fixed(bytes)?).into()),
        oid::INT4 => Value::Int(i32::from_be_bytes(fixed(bytes)?).into()),
        oid::OID => Value::Int(u32::from_be_bytes(fixed(bytes)?).into()),
        oid::FLOAT4 => Value::Float(f32::from_be_bytes(fixed(bytes)?).into()),
        oid::FLOAT8 => Value::Float(f64::from_be_bytes(fixed(bytes)?)),
        oid::JSON => return json(bytes).or_else(|| text(bytes)),
        oid::JSONB => return json(bytes.strip_prefix(&[1])?),
        oid::NUMERIC => Value::Text(numeric(bytes)?),
        oid::DATE => Value::Text(date(i32::from_be_bytes(fixed(bytes)?))),
        oid::TIME => Value::Text(time_of_day(i64::from_be_bytes(fixed(bytes)?))),
        oid::TIMESTAMP => Value::Text(timestamp(i64::from_be_bytes(fixed(bytes)?), "")),
        oid::TIMESTAMPTZ => Value::Text(timestamp(i64::from_be_bytes(fixed(bytes)?), "+00")),
        oid::UUID => {
            let hex = hex::encode(fixed::<16>(bytes)?);
            let part = |a: usize, b: usize| hex.get(a..b).unwrap_or_default();
            Value::Text([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
        }
        oid::VOID => Value::Null,
        _ => return text(bytes),
    })
}

/// Whether every number of a JSON text survives as a 64-bit number.
fn keeps_numbers(bytes: &[u8]) -> bool {
    let (mut in_string, mut escaped, mut digits) = (false, false, 0_u32);
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'0'..=b'9' => {
                digits += 1;
                if digits > 15 {
                    return false;
                }
            }
            b'.' | b'e' | b'E' | b'+' | b'-' => {}
            _ => digits = 0,
        }
    }
    true
}

/// `numeric` in its binary form: groups of four decimal digits, a weight, a sign and a display scale.
/// <https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/utils/adt/numeric.c>, `numeric_send`.
fn numeric(bytes: &[u8]) -> Option<String> {
    let word = |i: usize| Some(u16::from_be_bytes(bytes.get(i * 2..i * 2 + 2)?.try_into().ok()?));
    let (groups, weight, sign, scale) = (word(0)?, word(1)?.cast_signed(), word(2)?, usize::from(word(3)?));
    match sign {
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => {}
    }
    let group = |i: i32| -> Option<u16> {
        match usize::try_from(i) {
            Ok(i) if i < usize::from(groups) => word(4 + i),
            _ => Some(0),
        }
    };
    let mut text = String::new();
    if sign == 0x4000 {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    }
    for i in 0..=i32::from(weight) {
        match i {
            0 => text.push_str(&group(0)?.to_string()),
            _ => text.push_str(&format!("{:04}", group(i)?)),
        }
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut i = i32::from(weight) + 1;
        // A weight below -1 means groups of zeros before the first.
        for _ in 0..(-1 - i32::from(weight)).max(0) {
            fraction.push_str("0000");
        }
        i = i.max(0);
        while fraction.len() < scale {
            fraction.push_str(&format!("{:04}", group(i)?));
            i += 1;
        }
        fraction.truncate(scale);
        text.push('.');
        text.push_str(&fraction);
    }
    Some(text)
}

/// Days from 2000-01-01, the proleptic Gregorian calendar.
fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        _ => {
            let (text, era) = calendar(i64::from(days));
            format!("{text}{era}")
        }
    }
}

/// The day as `YYYY-MM-DD` and ` BC` or nothing. Howard Hinnant's `civil_from_days`.
fn calendar(days_from_2000: i64) -> (String, &'static str) {
    let z = days_from_2000 + 10_957 + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match year > 0 {
        true => (format!("{year:04}-{month:02}-{day:02}"), ""),
        false => (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC"),
    }
}

fn time_of_day(micros: i64) -> String {
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if rest > 0 {
        text.push_str(format!(".{rest:06}").trim_end_matches('0'));
    }
    text
}

fn timestamp(micros: i64, zone: &str) -> String {
    const DAY: i64 = 86_400_000_000;
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let (day, era) = calendar(micros.div_euclid(DAY));
            format!("{day} {}{zone}{era}", time_of_day(micros.rem_euclid(DAY)))
        }
    }
}

/// How a parameter goes out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outgoing {
    /// In the binary form of the type that the server expects.
    Binary(Option<Vec<u8>>),
    /// As text, to be cast on the server.
    Text(String),
}

/// A value for a parameter of this type.
pub(crate) fn encode(value: &Value, type_oid: u32, number: usize) -> Result<Outgoing> {
    let misfit = |what: &str| {
        Err(Error::invalid(format!("parameter {number} cannot be {what}"))
            .with_hint("cast the placeholder to the type that is meant"))
    };
    let binary = |bytes: Vec<u8>| Ok(Outgoing::Binary(Some(bytes)));
    let is_text = matches!(
        type_oid,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN | oid::XML | oid::JSON
    );
    match value {
        Value::Null => Ok(Outgoing::Binary(None)),
        Value::Bool(b) if type_oid == oid::BOOL => binary(vec![u8::from(*b)]),
        Value::Int(i) => match type_oid {
            oid::INT8 => binary(i.to_be_bytes().to_vec()),
            oid::INT4 => match i32::try_from(*i) {
                Ok(i) => binary(i.to_be_bytes().to_vec()),
                Err(_) => misfit("a number this large"),
            },
            oid::INT2 => match i16::try_from(*i) {
                Ok(i) => binary(i.to_be_bytes().to_vec()),
                Err(_) => misfit("a number this large"),
            },
            _ if is_text => binary(i.to_string().into_bytes()),
            _ => Ok(Outgoing::Text(i.to_string())),
        },
        Value::Float(x) => match type_oid {
            oid::FLOAT8 => binary(x.to_be_bytes().to_vec()),
            _ => {
                let text = match *x {
                    x if x == f64::INFINITY => "Infinity".to_owned(),
                    x if x == f64::NEG_INFINITY => "-Infinity".to_owned(),
                    x => x.to_string(),
                };
                match is_text {
                    true => binary(text.into_bytes()),
                    false => Ok(Outgoing::Text(text)),
                }
            }
        },
        Value::Bytes(bytes) => match type_oid {
            oid::BYTEA => binary(bytes.clone()),
            _ => misfit("bytes"),
        },
        Value::Text(text) if text.contains('\0') => misfit("a text with a zero character"),
        Value::Text(text) if is_text => binary(text.clone().into_bytes()),
        Value::Text(text) => Ok(Outgoing::Text(text.clone())),
        Value::Json(document) => {
            let text = document.to_string();
            match type_oid {
                oid::JSONB => binary([&[1], text.as_bytes()].concat()),
                _ if is_text => binary(text.into_bytes()),
                _ => Ok(Outgoing::Text(text)),
            }
        }
        Value::Bool(b) if is_text => binary(b.to_string().into_bytes()),
        Value::Bool(b) => Ok(Outgoing::Text(b.to_string())),
        _ => misfit("a value of this sort"),
    }
}

/// Bytes that are already in the binary form of their type.
pub(crate) struct Raw(pub(crate) Option<Vec<u8>>);

impl Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        // The statement is prepared before this is bound, so this type is never sent.
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(oid::UNKNOWN))
    }
}

impl Encode<'_, Postgres> for Raw {
    fn encode_by_ref(
        &self,
        buffer: &mut PgArgumentBuffer,
    ) -> Result<IsNull, Box<dyn std::error::Error + Send + Sync>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_server_writes_them() {
        assert_eq!(date(0), "2000-01-01");
        assert_eq!(date(-730_119), "0001-01-01");
        assert_eq!(date(-730_120), "0001-12-31 BC");
        assert_eq!(timestamp(1, "+00"), "2000-01-01 00:00:00.000001+00");
        assert_eq!(timestamp(-1, ""), "1999-12-31 23:59:59.999999");
        assert_eq!(timestamp(i64::MIN, ""), "-infinity");
        assert_eq!(time_of_day(86_400_000_000), "24:00:00");
    }

    #[test]
    fn numbers_that_do_not_fit_stay_text() {
        assert!(keeps_numbers(br#"{"a": 1.5, "b": "12345678901234567890"}"#));
        assert!(!keeps_numbers(b"[12345678901234567890]"));
        assert!(encode(&Value::Int(1 << 40), oid::INT4, 1).is_err());
        assert!(encode(&Value::Bytes(vec![0]), oid::TEXT, 1).is_err());
    }
}
