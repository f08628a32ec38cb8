//! Decimals as text, as java.math.BigDecimal reads and prints them.

/// Parses a decimal number and rounds it half up to `scale`. `None` if it is no number;
/// `Some(None)` if it does not fit `precision` (Flink makes that NULL).
pub(super) fn parse(text: &str, precision: u8, scale: i8) -> Option<Option<i128>> {
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = Vec::with_capacity(whole.len() + fraction.len());
    for byte in whole.bytes().chain(fraction.bytes()) {
        digits.push(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    if digits.is_empty() {
        return None;
    }
    let leading_zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let mut digits = digits.split_off(leading_zeros);
    if digits.is_empty() {
        return Some(Some(0));
    }
    let shift = i64::from(scale) + i64::from(exponent) - fraction.len() as i64;
    let mut round_up = false;
    if shift >= 0 {
        if digits.len() as i64 + shift > i64::from(precision) {
            return Some(None);
        }
        digits.extend(std::iter::repeat_n(0, shift as usize));
    } else {
        let kept = (digits.len() as i64 + shift).max(-1);
        // The first digit that falls off decides; before the first one there is a zero.
        round_up = kept >= 0 && digits[kept as usize] >= 5;
        digits.truncate(kept.max(0) as usize);
    }
    if digits.len() > usize::from(precision) {
        return Some(None);
    }
    let unscaled = digits.iter().fold(0_i128, |value, digit| value * 10 + i128::from(*digit))
        + i128::from(round_up);
    if unscaled >= 10_i128.pow(u32::from(precision)) {
        return Some(None);
    }
    Some(Some(if negative { -unscaled } else { unscaled }))
}

/// Writes `unscaled * 10^-scale` without trailing zeros: as `BigDecimal.toPlainString`, or as
/// `toString`, which takes to `1E+2` where that is shorter.
pub(super) fn write(out: &mut String, unscaled: i128, scale: i8, plain: bool) {
    if unscaled == 0 {
        out.push('0');
        return;
    }
    if unscaled < 0 {
        out.push('-');
    }
    let digits = unscaled.unsigned_abs().to_string();
    let stripped = digits.trim_end_matches('0');
    let scale = i32::from(scale) - (digits.len() - stripped.len()) as i32;
    let exponent = stripped.len() as i32 - 1 - scale;
    if !plain && (scale < 0 || exponent < -6) {
        out.push_str(&stripped[..1]);
        if stripped.len() > 1 {
            out.push('.');
            out.push_str(&stripped[1..]);
        }
        out.push('E');
        out.push(if exponent < 0 { '-' } else { '+' });
        out.push_str(&exponent.unsigned_abs().to_string());
    } else if scale <= 0 {
        out.push_str(stripped);
        out.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    } else {
        let point = stripped.len() as i32 - scale;
        if point > 0 {
            out.push_str(&stripped[..point as usize]);
            out.push('.');
            out.push_str(&stripped[point as usize..]);
        } else {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
            out.push_str(stripped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unscaled: i128, scale: i8, plain: bool) -> String {
        let mut out = String::new();
        write(&mut out, unscaled, scale, plain);
        out
    }

    #[test]
    fn numbers_are_rounded_half_up_to_the_scale() {
        assert_eq!(parse("12.345", 10, 2), Some(Some(1235)));
        assert_eq!(parse("-12.345", 10, 2), Some(Some(-1235)));
        assert_eq!(parse("12.344", 10, 2), Some(Some(1234)));
        assert_eq!(parse("1.5E2", 10, 2), Some(Some(15_000)));
        assert_eq!(parse("0.006", 10, 2), Some(Some(1)));
        assert_eq!(parse("0.0006", 10, 2), Some(Some(0)));
        assert_eq!(parse("000.10", 3, 2), Some(Some(10)));
    }

    #[test]
    fn numbers_that_do_not_fit_are_null_and_words_are_no_numbers() {
        assert_eq!(parse("1000", 3, 0), Some(None));
        assert_eq!(parse("999.9", 3, 0), Some(None));
        assert_eq!(parse("1e400", 38, 0), Some(None));
        assert_eq!(parse("abc", 10, 2), None);
        assert_eq!(parse("", 10, 2), None);
        assert_eq!(parse(".", 10, 2), None);
    }

    #[test]
    fn decimals_are_printed_as_java_does() {
        assert_eq!(written(10_000, 2, false), "1E+2");
        assert_eq!(written(10_000, 2, true), "100");
        assert_eq!(written(12_300, 2, false), "123");
        assert_eq!(written(15_000, 0, false), "1.5E+4");
        assert_eq!(written(-150, 2, false), "-1.5");
        assert_eq!(written(5, 2, false), "0.05");
        assert_eq!(written(1, 7, false), "1E-7");
        assert_eq!(written(1, 7, true), "0.0000001");
        assert_eq!(written(0, 2, false), "0");
    }
}
