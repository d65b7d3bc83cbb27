//! From when until when a certificate is good: the one field that is read of it here (RFC 5280, 4.1.2.5).

/// `notBefore` and `notAfter`, seconds since 1970. `None`: it is no certificate.
pub fn of(certificate: &[u8]) -> Option<(u64, u64)> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (mut body, _) = take(certificate, SEQUENCE)?;
    if body.first() == Some(&EXPLICIT_0) {
        // The version.
        body = take(body, EXPLICIT_0)?.1;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        body = take(body, tag)?.1;
    }
    let (validity, _) = take(body, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// One value of DER with this tag, and what is behind it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (len, rest) = rest.split_first()?;
    let (len, rest) = match len {
        0..=0x7f => (usize::from(*len), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(len - 0x80))?;
            (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(len)).flatten()
}

fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (text, rest, digits) = match *der.first()? {
        UTC_TIME => take(der, UTC_TIME).map(|(text, rest)| (text, rest, 2))?,
        GENERALIZED_TIME => take(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
        _ => return None,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if text.len() != digits + 10 || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let year: u64 = text[..digits].parse().ok()?;
    // Two digits: 1950 to 2049.
    let year = match digits {
        2 if year < 50 => 2000 + year,
        2 => 1900 + year,
        _ => year,
    };
    let part = |at: usize| text[digits + at..digits + at + 2].parse::<u64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((days(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second, rest))
}

/// Days since 1970 (Howard Hinnant, `days_from_civil`).
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, number) in
            [((1970, 1, 1), 0), ((2000, 3, 1), 11_017), ((2024, 2, 29), 19_782), ((2049, 12, 31), 29_219)]
        {
            assert_eq!(days(date.0, date.1, date.2), Some(number), "{date:?}");
        }
    }

    #[test]
    fn a_certificate_says_how_long_it_is_good() {
        let mut wanted = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        wanted.not_before = rcgen::date_time_ymd(2026, 11, 24);
        wanted.not_after = rcgen::date_time_ymd(2051, 1, 2);
        let made = wanted.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(of(made.der()), Some((20_781 * 86_400, 29_586 * 86_400)));
        for cut in 0..made.der().len() / 2 {
            let _ = of(&made.der()[..cut]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = of(&bytes);
        }
    }
}
