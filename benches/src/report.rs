//! The tables in Markdown: all figures from the rows, the best of a column in bold, whoever
//! has it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::peers::Name;
use crate::rows::{Row, figure};
use crate::targets::{Figures, table, targets};
use crate::{
    Failure, contend, crash, handover, idle, instructions, many, names, pairs, plots, run,
};

const BEGIN: &str = "<!-- figures: written by the suite, from results/results.csv -->";
const END: &str = "<!-- end of the figures -->";

/// Which end of a column is the good one.
#[derive(Clone, Copy)]
enum Best {
    Least,
    Most,
}

/// All tables.
#[must_use]
pub fn markdown(rows: &[Row], how: &str) -> String {
    let figures = Figures(rows);
    let mut text = format!("{how}\n\n### The targets\n\n{}", table(&targets(figures)));
    text += "\n### Uncontended\n\n";
    text += &uncontended(figures);
    for (metric, title, best) in [
        (
            "throughput",
            "Contended: million pairs a second",
            Best::Most,
        ),
        (
            "over caslock",
            "Contended: throughput over caslock's, round by round",
            Best::Most,
        ),
        (
            "fairness",
            "Contended: slowest process over fastest",
            Best::Most,
        ),
        (
            "wait p99",
            "Contended: 99 % of the waits end within, ms",
            Best::Least,
        ),
        ("wait max", "Contended: longest wait, ms", Best::Least),
        ("lost updates", "Contended: lost updates", Best::Least),
    ] {
        let _ = write!(
            text,
            "\n### {title}\n\n{}",
            contended(figures, contend::WORKLOAD, metric, best)
        );
    }
    for (metric, title, best) in [
        ("throughput", "million pairs a second", Best::Most),
        ("fairness", "slowest process over fastest", Best::Most),
        ("wait max", "longest wait, ms", Best::Least),
    ] {
        let _ = write!(
            text,
            "\n### Contended, and {} us of work outside: {title}\n\n{}",
            contend::OUTSIDE_NS / 1_000,
            contended(figures, contend::WORKLOAD_OUTSIDE, metric, best)
        );
    }
    text += "\n### Handover to a sleeping waiter\n\n";
    text += &list(rows, handover::WORKLOAD);
    text += "\n### SIGKILL of the holder to the next grant, us\n\n";
    text += &crashes(figures);
    text += "\n### Many locks, 8 processes over 10,000 names\n\n";
    text += &list(rows, many::WORKLOAD);
    text += "\n### A table of 1,048,576 slots, nine tenths full\n\n";
    text += &list(rows, names::WORKLOAD);
    text += "\n### Whole processes\n\n";
    text += &list(rows, run::WORKLOAD);
    text += "\n### Attached and idle\n\n";
    text += &list(rows, idle::WORKLOAD);
    let mut missing: Vec<_> = rows
        .iter()
        .filter(|row| !row.note.is_empty())
        .map(|row| format!("- {}, {}: {}\n", row.workload, row.peer, row.note))
        .collect();
    // One row for each of its cells.
    missing.dedup();
    if !missing.is_empty() {
        text += "\nNot measured:\n\n";
        text.extend(missing);
    }
    text
}

/// A Markdown table: a name a line and figures, the best of each column in bold.
fn grid(head: &[String], best: Best, lines: &[(String, Vec<Option<f64>>)]) -> String {
    let lines: Vec<_> = lines
        .iter()
        .filter(|(_, values)| values.iter().any(Option::is_some))
        .collect();
    let column = |at: usize| lines.iter().filter_map(move |(_, values)| values[at]);
    let winners: Vec<_> = (0..head.len() - 1)
        .map(|at| match best {
            Best::Least => column(at).reduce(f64::min),
            Best::Most => column(at).reduce(f64::max),
        })
        .collect();
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for (name, values) in lines {
        let cells = values
            .iter()
            .zip(&winners)
            .map(|(value, winner)| match value {
                None => "-".into(),
                Some(is) if value == winner => format!("**{}**", figure(*is)),
                Some(is) => figure(*is),
            });
        let _ = writeln!(
            text,
            "| {name} | {} |",
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
    text
}

fn uncontended(figures: Figures<'_>) -> String {
    let of = |workload, peer: &Name, metric| figures.plain(workload, peer.key(), metric);
    let lines: Vec<_> = Name::ALL
        .iter()
        .map(|peer| {
            let values = vec![
                of(pairs::WORKLOAD, peer, "pair"),
                of(pairs::WORKLOAD, peer, "over bare"),
                of(instructions::WORKLOAD, peer, "pair"),
            ];
            (peer.label().into(), values)
        })
        .collect();
    let head = ["", "pair, ns", "over bare CAS", "instructions, user space"];
    grid(&head.map(String::from), Best::Least, &lines)
}

fn contended(figures: Figures<'_>, workload: &str, metric: &str, best: Best) -> String {
    let cells = figures.cells(workload);
    let mut head = vec![String::new()];
    head.extend(
        cells
            .iter()
            .map(|(processes, ns)| format!("{processes} proc., {} us", figure(*ns as f64 / 1e3))),
    );
    let lines: Vec<_> = Name::ALL
        .iter()
        .map(|&peer| {
            let of = |cell: &(u32, u64)| figures.cell(workload, *cell, peer, metric);
            (peer.label().into(), cells.iter().map(of).collect())
        })
        .collect();
    grid(&head, best, &lines)
}

fn crashes(figures: Figures<'_>) -> String {
    const CASES: [&str; 2] = [crash::THREADS, crash::SOON];
    let cells = figures.cells(crash::WORKLOAD);
    let mut head = vec![String::from("holder's memory")];
    head.extend(cells.iter().map(|cell| plots::bytes(cell.1)));
    head.extend(CASES.map(String::from));
    let lines: Vec<_> = crash::PEERS
        .iter()
        .map(|&peer| {
            let of =
                |cell: &(u32, u64)| figures.cell(crash::WORKLOAD, *cell, peer, "kill to grant");
            let mut values: Vec<_> = cells.iter().map(of).collect();
            let of_case = |case| figures.case(crash::WORKLOAD, case, peer, "kill to grant");
            values.extend(CASES.map(of_case));
            (peer.label().into(), values)
        })
        .collect();
    grid(&head, Best::Least, &lines)
}

/// The rows of a workload, one a line.
fn list(rows: &[Row], workload: &str) -> String {
    let mut text = String::from("| | | median | 10 % | 90 % | |\n|---|---|---|---|---|---|\n");
    for row in rows.iter().filter(|row| row.workload == workload) {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
        let name = Name::ALL.iter().find(|name| name.key() == row.peer);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            name.map_or(row.peer.as_str(), |name| name.label()),
            [row.case.as_str(), row.metric.as_str()].join(" ").trim(),
            cell(row.value),
            cell(row.low),
            cell(row.high),
            row.unit,
        );
    }
    text
}

/// Puts the tables between the markers of a page.
///
/// # Errors
/// That the page has no such markers, or what the kernel answers.
pub fn publish(page: &Path, tables: &str) -> Result<(), Failure> {
    let text = fs::read_to_string(page)?;
    Ok(fs::write(page, replaced(&text, tables)?)?)
}

fn replaced(text: &str, tables: &str) -> Result<String, Failure> {
    let missing = || format!("the page does not have the lines `{BEGIN}` and `{END}`");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&page, "new").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "new").unwrap(), once);
    }

    #[test]
    fn a_page_without_markers_is_refused() {
        assert!(replaced("nothing", "new").is_err());
    }

    #[test]
    fn the_best_of_a_column_is_bold_whoever_has_it() {
        let lines = [
            ("caslock".into(), vec![Some(2.0)]),
            ("peer".into(), vec![Some(1.0)]),
            ("absent".into(), vec![None]),
        ];
        let head = ["".into(), "us".into()];
        let text = grid(&head, Best::Least, &lines);
        assert!(text.contains("| peer | **1.00** |"), "{text}");
        assert!(text.contains("| caslock | 2.00 |"), "{text}");
        assert!(!text.contains("absent"), "{text}");
    }
}
