//! Kubernetes quantities: `100m`, `1.5`, `128Mi`, `2e3`.
//!
//! Source: k8s.io/apimachinery `resource.Quantity`. A quantity is a decimal number with an
//! optional suffix, decimal (`n u m k M G T P E`), binary (`Ki Mi Gi Ti Pi Ei`) or an exponent.

use thiserror::Error;

/// An amount in thousandths, rounded up: enough for CPU (`100m`) and for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity {
    thousandths: i128,
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl Quantity {
    /// Whole units, rounded up: bytes, cores.
    pub fn value(self) -> i128 {
        self.thousandths.div_euclid(1000) + i128::from(self.thousandths.rem_euclid(1000) != 0)
    }

    /// Thousandths of a unit: millicores.
    pub fn milli_value(self) -> i128 {
        self.thousandths
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (sign, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| QuantityError)?;
        let scale = i32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        let (multiplier, exponent) = suffix_factor(suffix).ok_or(QuantityError)?;
        let amount = digits.checked_mul(multiplier).ok_or(QuantityError)?;
        let thousandths = shift(amount, exponent - scale + 3).ok_or(QuantityError)?;
        Ok(Quantity { thousandths: sign * thousandths })
    }
}

/// Multiplier and power of ten of a suffix.
fn suffix_factor(suffix: &str) -> Option<(i128, i32)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 0));
    let decimal = |exponent: i32| Some((1, exponent));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-18..=18).contains(&exponent).then_some((1, exponent))
        }
    }
}

/// `amount` times ten to the `power`, rounded up.
fn shift(amount: i128, power: i32) -> Option<i128> {
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    match power >= 0 {
        true => amount.checked_mul(factor),
        false => Some(amount / factor + i128::from(amount % factor != 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale_as_kubernetes_scales_them() {
        let rows = [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            (".5", 500),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("128Mi", 134_217_728_000),
            ("1n", 1),
            ("-1", -1000),
            ("+1", 1000),
        ];
        for (text, thousandths) in rows {
            assert_eq!(text.parse(), Ok(Quantity { thousandths }), "{text}");
        }
        assert_eq!("1500m".parse::<Quantity>().map(Quantity::value), Ok(2));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", "1 Mi", "1mi", "1.2.3", "--1", "1e99", "one", "é", "1é"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError), "{text:?}");
        }
    }
}
