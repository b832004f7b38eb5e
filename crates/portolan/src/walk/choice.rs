//! Which steps are shown: `--step 4`, `--step 4-6`, and both more than once.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// Number of the walk's last step.
pub(super) const LAST: u8 = 8;

/// One value of `--step`: a step, or the first and the last of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StepRange(RangeInclusive<u8>);

impl FromStr for StepRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u8>().ok().filter(|step| (1..=LAST).contains(step));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first..=last)),
            (Some(first), Some(last)) => Err(format!("it ends before it begins; write {last}-{first}")),
            _ => Err(format!("write a step from 1 to {LAST}, or a range such as 4-6")),
        }
    }
}

/// The steps that were asked for, in the walk's order, each once; all if nobody asked.
pub(super) fn chosen(ranges: &[StepRange]) -> Vec<u8> {
    let asked = |step: &u8| ranges.is_empty() || ranges.iter().any(|range| range.0.contains(step));
    (1..=LAST).filter(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(values: &[&str]) -> Vec<u8> {
        chosen(&values.iter().map(|value| value.parse().expect("a range")).collect::<Vec<_>>())
    }

    #[test]
    fn steps_and_ranges_come_in_the_walks_order_each_once() {
        assert_eq!(steps(&[]), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(steps(&["4"]), [4]);
        assert_eq!(steps(&["7", "2-4", "3"]), [2, 3, 4, 7]);
    }

    #[test]
    fn what_is_no_step_is_refused_with_the_way_out() {
        for (value, why) in
            [("0", "from 1 to 8"), ("9", "from 1 to 8"), ("4-", "4-6"), ("x", "4-6"), ("6-4", "write 4-6")]
        {
            let error = value.parse::<StepRange>().expect_err(value);
            assert!(error.contains(why), "{value}: {error}");
        }
    }
}
