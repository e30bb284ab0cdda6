//! Figures: quantiles of what was measured, durations as a person reads them, and the
//! machine's name, without which no figure means anything.

use std::fs;
use std::time::Duration;

/// Measurements of one thing, in ascending order.
#[derive(Clone, Debug)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Sorts the measurements.
    ///
    /// # Panics
    /// If there are none: a quantile of nothing is no figure.
    #[must_use]
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// What each measurement is to the one that was taken in the same round: noise that falls on
    /// both moves that far less.
    #[must_use]
    pub fn of_ratios(own: &[f64], base: &[f64]) -> Self {
        Self::new(own.iter().zip(base).map(|(own, base)| own / base).collect())
    }

    /// The measurement below which this share of the others lies, from 0.0 to 1.0.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[((last as f64 * share).round() as usize).min(last)]
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a sample is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// Nanoseconds as a person reads them: `11.1 ns`, `52.3 us`, `158 ms`.
#[must_use]
pub fn nanoseconds(value: f64) -> String {
    let (value, unit) = match value {
        ..1e3 => (value, "ns"),
        1e3..1e6 => (value / 1e3, "us"),
        1e6..1e9 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let decimals = usize::from(value < 100.0);
    format!("{value:.decimals$} {unit}")
}

/// A duration in nanoseconds.
#[must_use]
pub fn as_nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// The kernel, the processor and the number of cores.
#[must_use]
pub fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name)
        })
        .unwrap_or("processor unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {}, {cores} cores", kernel.trim(), model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measurements_in_order() {
        let sample = Sample::new(vec![3.0, 1.0, 2.0, 5.0, 4.0]);
        assert_eq!(sample.median(), 3.0);
        assert_eq!(sample.quantile(0.0), 1.0);
        assert_eq!(sample.quantile(1.0), 5.0);
    }

    #[test]
    fn figures_have_the_unit_that_fits_them() {
        let cases = [
            (11.12, "11.1 ns"),
            (52_340.0, "52.3 us"),
            (1.58e8, "158 ms"),
            (2e9, "2.0 s"),
        ];
        for (value, text) in cases {
            assert_eq!(nanoseconds(value), text);
        }
    }
}
