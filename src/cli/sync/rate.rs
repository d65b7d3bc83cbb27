//! `--bwlimit`: bytes a second, as people write them.

use crate::model::{Error, Result};

use crate::cli::show;

/// `500K`, `10M`, `1.5G` are powers of 1000, `64KiB` and `1.5MiB` of 1024; a `B` and a `/s` may follow. `0` is no limit.
pub fn parse(text: &str) -> Result<u64> {
    read(text.trim()).ok_or_else(|| {
        Error::usage(format!("`{}` is not a rate", show::text(text)))
            .hint("write bytes a second with a unit: 500K, 10M, 1.5G, or 64MiB for powers of 1024")
    })
}

fn read(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let scale: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "m" => 1000 * 1000,
        "g" => 1000 * 1000 * 1000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || number == "." || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let parts: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let of = 10u64.pow(u32::try_from(fraction.len()).ok()?);
    let rest = u64::try_from(u128::from(parts) * u128::from(scale) / u128::from(of)).ok()?;
    whole.checked_mul(scale)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rates_are_read_as_they_are_meant() {
        let good = [
            ("0", 0),
            ("1000", 1000),
            ("500K", 500_000),
            ("10M", 10_000_000),
            ("1.5G", 1_500_000_000),
            ("64KiB", 65_536),
            ("1.5MiB", 1_572_864),
            ("2 MB/s", 2_000_000),
            ("10m", 10_000_000),
            (".5k", 500),
        ];
        for (text, rate) in good {
            assert_eq!(parse(text).ok(), Some(rate), "{text}");
        }
        for text in ["", "fast", "M", "-1M", "1.2.3M", "10X", "99999999999999999999", "99999999999999G", "1e6", "+1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
