//! What caslock has to reach, beside what it reached: computed from the rows and nothing
//! else.

use crate::peers::Name;
use crate::rows::{Row, figure};
use crate::{contend, crash, handover, idle, many, names, pairs, run};

/// A target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its number: several lines may belong to one.
    pub number: u32,
    /// What is compared.
    pub what: String,
    /// What it must be.
    pub must: String,
    /// What it is; nothing if it was not measured.
    pub is: Option<f64>,
    /// Whether that is enough.
    pub met: Option<bool>,
    /// Where the figure comes from, if from one of several cells.
    pub detail: String,
}

/// The rows, to be asked for figures.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a>(pub &'a [Row]);

impl Figures<'_> {
    /// A figure that does not vary with anything.
    #[must_use]
    pub fn plain(&self, workload: &str, peer: &str, metric: &str) -> Option<f64> {
        let mut rows = self.0.iter();
        rows.find(|row| row.workload == workload && row.peer == peer && row.metric == metric)?
            .value
    }

    /// A figure of so many processes and this size.
    #[must_use]
    pub fn cell(
        &self,
        workload: &str,
        (processes, size): (u32, u64),
        peer: Name,
        metric: &str,
    ) -> Option<f64> {
        let is_it = |row: &&Row| {
            row.workload == workload
                && row.case.is_empty()
                && (row.processes, row.size) == (processes, size)
                && row.peer == peer.key()
                && row.metric == metric
        };
        self.0.iter().find(is_it)?.value
    }

    /// The figure of a case.
    #[must_use]
    pub fn case(&self, workload: &str, case: &str, peer: Name, metric: &str) -> Option<f64> {
        let is_it = |row: &&Row| {
            (row.workload.as_str(), row.case.as_str()) == (workload, case)
                && row.peer == peer.key()
                && row.metric == metric
        };
        self.0.iter().find(is_it)?.value
    }

    /// The pairs of processes and size that a workload was measured with, in order.
    #[must_use]
    pub fn cells(&self, workload: &str) -> Vec<(u32, u64)> {
        let rows = self
            .0
            .iter()
            // A lock that could not be measured has a row that says so, of no size.
            .filter(|row| row.workload == workload && row.case.is_empty() && row.value.is_some());
        let mut cells: Vec<_> = rows.map(|row| (row.processes, row.size)).collect();
        cells.sort_by_key(|&(processes, size)| (size, processes));
        cells.dedup();
        cells
    }
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

fn target(number: u32, what: &str, bound: Bound, unit: &str, is: Option<f64>) -> Target {
    let (word, limit) = match bound {
        Bound::AtMost(limit) => ("at most", limit),
        Bound::AtLeast(limit) => ("at least", limit),
    };
    Target {
        number,
        what: what.into(),
        must: format!("{word} {limit}{unit}"),
        is,
        met: is.map(|is| match bound {
            Bound::AtMost(limit) => is <= limit,
            Bound::AtLeast(limit) => is >= limit,
        }),
        detail: String::new(),
    }
}

/// All of them.
#[must_use]
pub fn targets(figures: Figures<'_>) -> Vec<Target> {
    let mut all = uncontended(figures);
    all.extend(contended(figures));
    all.extend(waiting_and_dying(figures));
    all.extend(large_and_small(figures));
    all
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

fn uncontended(figures: Figures<'_>) -> Vec<Target> {
    let over = |peer: Name| figures.plain(pairs::WORKLOAD, peer.key(), "over bare");
    let own = over(Name::Caslock);
    vec![
        target(
            1,
            "uncontended pair, over bare CAS",
            Bound::AtMost(1.1),
            "",
            own,
        ),
        target(
            1,
            "plain pthread mutex, over caslock",
            Bound::AtLeast(1.0),
            "",
            ratio(over(Name::Pthread), own),
        ),
        target(
            1,
            "robust pthread mutex, over caslock",
            Bound::AtLeast(1.25),
            "",
            ratio(over(Name::Robust), own),
        ),
    ]
}

/// One figure a cell, and its name; the worst decides.
fn worst(
    cells: &[(u32, u64)],
    is_worse: fn(f64, f64) -> bool,
    of: impl Fn((u32, u64)) -> Option<f64>,
) -> Option<(f64, String)> {
    let mut worst: Option<(f64, String)> = None;
    for &cell in cells {
        let is = of(cell)?;
        if worst.as_ref().is_none_or(|(least, _)| is_worse(is, *least)) {
            let name = format!(
                "worst at {} processes, {} us section",
                cell.0,
                cell.1 / 1000
            );
            worst = Some((is, name));
        }
    }
    worst
}

fn contended(figures: Figures<'_>) -> Vec<Target> {
    let cells = figures.cells(contend::WORKLOAD);
    let of = |cell, peer, metric| figures.cell(contend::WORKLOAD, cell, peer, metric);
    let others = |keep: fn(&Name) -> bool| {
        let all = Name::ALL.iter().copied();
        all.filter(move |peer| *peer != Name::Caslock && keep(peer))
    };
    let less: fn(f64, f64) -> bool = |a, b| a < b;
    let more: fn(f64, f64) -> bool = |a, b| a > b;
    let line = |what, bound, unit, found: Option<(f64, String)>| {
        let (is, detail) = found.unzip();
        let target = target(2, what, bound, unit, is);
        Target {
            detail: detail.unwrap_or_default(),
            ..target
        }
    };
    let throughput = worst(&cells, less, |cell| {
        others(|peer| peer.is_crash_safe())
            .filter_map(|peer| of(cell, peer, "over caslock"))
            .reduce(f64::max)
            .map(f64::recip)
    });
    let fairness = worst(&cells, less, |cell| of(cell, Name::Caslock, "fairness"));
    // Comparable: at least half as many pairs.
    let waits = worst(&cells, more, |cell| {
        let own = of(cell, Name::Caslock, "throughput")?;
        let best = others(|_| true)
            .filter(|peer| of(cell, *peer, "throughput").is_some_and(|is| is >= own / 2.0))
            .filter_map(|peer| of(cell, peer, "wait max"))
            .reduce(f64::min);
        // Nobody comparable: nothing to be longer than.
        let best = best.or(Some(f64::INFINITY));
        ratio(of(cell, Name::Caslock, "wait max"), best)
    });
    let eight: Vec<_> = cells.iter().copied().filter(|cell| cell.0 == 8).collect();
    let longest = worst(&eight, more, |cell| of(cell, Name::Caslock, "wait max"));
    let lost = worst(&cells, more, |cell| of(cell, Name::Caslock, "lost updates"));
    vec![
        line(
            "contended throughput, over the best crash-safe peer",
            Bound::AtLeast(1.2),
            "",
            throughput,
        ),
        line(
            "slowest process over fastest",
            Bound::AtLeast(0.8),
            "",
            fairness,
        ),
        line(
            "longest wait, over the best of the peers with half the throughput or more",
            Bound::AtMost(0.5),
            "",
            waits,
        ),
        line(
            "longest wait of 8 processes",
            Bound::AtMost(10.0),
            " ms",
            longest,
        ),
        line("lost updates", Bound::AtMost(0.0), "", lost),
    ]
}

fn waiting_and_dying(figures: Figures<'_>) -> Vec<Target> {
    let mut all: Vec<_> = handover::PLACES
        .iter()
        .map(|place| {
            let is = figures.case(handover::WORKLOAD, place, Name::Caslock, "over pthread");
            let what = format!("handover to a sleeping waiter, {place}: over the pthread mutex");
            target(3, &what, Bound::AtMost(1.05), "", is)
        })
        .collect();
    let crash = |size, peer| figures.cell(crash::WORKLOAD, (2, size), peer, "over caslock");
    all.extend([
        target(
            4,
            "SIGKILL to next grant, small holder, over the robust mutex",
            Bound::AtMost(1.5),
            "",
            crash(0, Name::Robust).map(f64::recip),
        ),
        target(
            4,
            "the same, killed after 5 ms of waiting",
            Bound::AtMost(1.5),
            "",
            figures
                .case(crash::WORKLOAD, crash::SOON, Name::Robust, "over caslock")
                .map(f64::recip),
        ),
        target(
            4,
            "SIGKILL to next grant, 2 GiB holder: flock over caslock",
            Bound::AtLeast(500.0),
            "",
            crash(2 << 30, Name::Flock),
        ),
    ]);
    all
}

fn large_and_small(figures: Figures<'_>) -> Vec<Target> {
    let mut all: Vec<_> = many::CASES
        .iter()
        .map(|case| {
            let is = figures.case(many::WORKLOAD, case, Name::Caslock, "over due");
            let what = format!("8 processes over 10,000 names, {case}: pair over pair plus misses");
            target(5, &what, Bound::AtMost(1.3), "", is)
        })
        .collect();
    let names = |metric| figures.plain(names::WORKLOAD, "caslock", metric);
    let large =
        |what: &str, most: f64, unit: &str, is| target(6, what, Bound::AtMost(most), unit, is);
    all.extend([
        large(
            "resolve in 1,048,576 slots, 90 % full",
            150.0,
            " ns",
            names("resolve"),
        ),
        large("create there", 1000.0, " ns", names("create")),
        large("attach there", 1000.0, " us", names("attach")),
        large(
            "memory a slot, the name apart",
            128.0,
            " bytes",
            names("bytes a slot, name apart"),
        ),
        large(
            "resident after attaching there (only touched pages)",
            1024.0,
            " KiB",
            names("resident after attach"),
        ),
        target(
            7,
            "`caslock run NAME true`, over `flock FILE true`",
            Bound::AtMost(1.0),
            "",
            figures.plain(run::WORKLOAD, "caslock", "over flock"),
        ),
        target(
            8,
            "attached and idle",
            Bound::AtMost(0.01),
            " % of a core",
            figures.plain(idle::WORKLOAD, "caslock", "share of a core"),
        ),
    ]);
    all
}

/// The table in Markdown.
#[must_use]
pub fn table(targets: &[Target]) -> String {
    let mut text = String::from("| # | target | must be | is | met |\n|---|---|---|---|---|\n");
    for target in targets {
        let met = match target.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let is = target.is.map_or_else(|| "-".into(), figure);
        let detail = match target.detail.as_str() {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        let Target {
            number, what, must, ..
        } = target;
        text += &format!("| {number} | {what} | {must} | {is}{detail} | {met} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Sample;

    fn row(peer: Name, processes: u32, metric: &str, value: f64) -> Row {
        let sample = Sample::new(vec![value]);
        Row::new(contend::WORKLOAD, peer.key(), metric, "", &sample).processes(processes)
    }

    #[test]
    fn the_worst_cell_decides() {
        let rows = [
            row(Name::Robust, 2, "over caslock", 0.25),
            row(Name::Pthread, 2, "over caslock", 3.0),
            row(Name::Robust, 8, "over caslock", 0.8),
            row(Name::Flock, 8, "over caslock", 0.5),
        ];
        let targets = targets(Figures(&rows));
        let throughput = targets.iter().find(|target| target.number == 2).unwrap();
        assert_eq!(
            throughput.is,
            Some(1.25),
            "a lock that death leaves locked is no peer here"
        );
        assert_eq!(throughput.met, Some(true));
        assert!(throughput.detail.contains("8 processes"));
    }

    #[test]
    fn a_lock_that_is_not_installed_takes_no_target_away() {
        let missing = Row::missing(contend::WORKLOAD, Name::Redis.key(), "throughput", "", "no");
        let rows = [missing, row(Name::Robust, 2, "over caslock", 0.5)];
        assert_eq!(Figures(&rows).cells(contend::WORKLOAD), [(2, 0)]);
        let targets = targets(Figures(&rows));
        let throughput = targets.iter().find(|target| target.number == 2).unwrap();
        assert_eq!(throughput.is, Some(2.0));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        for target in targets(Figures(&[])) {
            assert_eq!((target.is, target.met), (None, None), "{}", target.what);
        }
    }
}
