//! What the campaigns have found, out of their results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Campaign;
use crate::matrix::ROWS;
use crate::results;

/// The results, and what has just been run.
pub(super) struct Panel {
    dir: PathBuf,
    /// How many rows each campaign had before.
    before: BTreeMap<Campaign, usize>,
    /// Runs that found something, and ones that could not be made, with why.
    found: Vec<String>,
    not_run: Vec<String>,
}

impl Panel {
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        let count =
            |campaign: Campaign| anyhow::Ok((campaign, results::read(dir, campaign.name())?.len()));
        Ok(Self {
            dir: dir.to_path_buf(),
            before: Campaign::ALL
                .into_iter()
                .map(count)
                .collect::<Result<_, _>>()?,
            found: Vec::new(),
            not_run: Vec::new(),
        })
    }

    pub(super) fn has_run(&mut self, campaign: Campaign, run: &str, clean: bool) {
        if !clean {
            self.found
                .push(format!("{}: torture {run}", campaign.name()));
        }
    }

    pub(super) fn has_not_run(&mut self, campaign: Campaign, run: &str, why: &str) {
        let line = format!("{} could not be run: torture {run}: {why}", campaign.name());
        eprintln!("{line}");
        self.not_run.push(line);
    }

    /// Prints it. 0: all is well; 1: something was found; 2: nothing was, but not all ran.
    pub(super) fn show(self) -> anyhow::Result<u8> {
        println!("# Torture: the dashboard\n");
        if let Some(revision) = results::revision() {
            println!("The source is at {revision}; results say where they were at another.\n");
        }
        let mut unclean = 0;
        for campaign in Campaign::ALL {
            let rows = results::read(&self.dir, campaign.name())?;
            let fresh = self.before.get(&campaign).copied().unwrap_or(0);
            let shown = choose(campaign, &rows, fresh);
            let is_bad = |row: &&Value| !is_clean(campaign, row);
            unclean += shown.iter().filter(|row| is_bad(row)).count();
            if shown.is_empty() {
                println!("## {}\n\nno results\n", campaign.name());
                continue;
            }
            match campaign {
                Campaign::Instructions => instructions(&shown),
                Campaign::Soak => soak(&shown),
                Campaign::Racers => racers(&shown),
                Campaign::Bytes => bytes(&shown),
                Campaign::Syscalls => syscalls(&shown),
                Campaign::Matrix => matrix(&shown),
                Campaign::Planted => planted(&shown),
            }
            println!();
        }
        println!("## Verdict\n");
        self.found
            .iter()
            .for_each(|run| println!("found something: {run}"));
        self.not_run.iter().for_each(|run| println!("{run}"));
        println!("{unclean} of the results above are findings");
        Ok(match (unclean + self.found.len(), self.not_run.len()) {
            (0, 0) => 0,
            (0, _) => 2,
            _ => 1,
        })
    }
}

/// Of the results for one and the same thing the most thorough, and the latest of equals:
/// tests have one length. What is fresh and was found is shown in any case.
fn choose(campaign: Campaign, rows: &[Value], fresh: usize) -> Vec<&Value> {
    let key = |row: &Value| match campaign {
        Campaign::Instructions | Campaign::Syscalls => text(&row["operation"]),
        Campaign::Soak => text(&row["policy"]),
        Campaign::Racers | Campaign::Bytes => String::new(),
        Campaign::Matrix => format!("{:02}/{}/{}", row["row"], row["suite"], row["test"]),
        Campaign::Planted => format!("{}/{}", row["bug"], row["catcher"]),
    };
    let size = |row: &Value| match campaign {
        Campaign::Instructions => number(&row["kill_points"]),
        Campaign::Soak => number(&row["seconds"]),
        Campaign::Racers => number(&row["rounds"]),
        Campaign::Bytes => number(&row["images"]),
        Campaign::Syscalls => number(&row["shots"]),
        Campaign::Matrix | Campaign::Planted => 0,
    };
    let mut best = BTreeMap::<String, usize>::new();
    let mut order = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let known = best.get(&key(row)).copied();
        if known.is_none() {
            order.push(key(row));
        }
        if known.is_none_or(|known| size(&rows[known]) <= size(row)) {
            best.insert(key(row), at);
        }
    }
    let mut shown = order.iter().map(|key| best[key]).collect::<Vec<_>>();
    // A soak of just now stands beside the longest.
    let is_beside = |at: usize| campaign == Campaign::Soak || !is_clean(campaign, &rows[at]);
    let beside = (fresh..rows.len()).filter(|at| is_beside(*at) && !shown.contains(at));
    let beside = beside.collect::<Vec<_>>();
    shown.extend(beside);
    shown.into_iter().map(|at| &rows[at]).collect()
}

fn is_clean(campaign: Campaign, row: &Value) -> bool {
    match campaign {
        Campaign::Instructions | Campaign::Soak | Campaign::Racers => row["clean"] == true,
        Campaign::Bytes | Campaign::Syscalls => count(&row["findings"]) == 0,
        Campaign::Matrix => row["outcome"] != "Failed",
        Campaign::Planted => row["caught"] == true,
    }
}

fn instructions(rows: &[&Value]) {
    println!("## Every instruction a crash point\n");
    println!(
        "| operation | instructions | kill points | all | recovered | double owners | wedged \
         | slowest | over 5 ms | images | copies | slowest copy | when |"
    );
    println!("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    for row in rows {
        let all = match (row["all"] == true, number(&row["strayed"])) {
            (true, 0) => "yes".to_owned(),
            (true, strayed) => format!("but {strayed} strayed"),
            _ => "no".to_owned(),
        };
        println!(
            "| {} | {} | {} | {all} | {} | {} | {} | {} | {} | {} of {} | {} of {} | {} | {} |",
            text(&row["operation"]),
            number(&row["instructions"]),
            number(&row["kill_points"]),
            number(&row["recovered"]),
            number(&row["double_owners"]),
            number(&row["wedged"]),
            millis(&row["recoveries"]["slowest_us"]),
            number(&row["recoveries"]["slow"]),
            number(&row["images_recovered"]),
            number(&row["images"]),
            number(&row["copies_recovered"]),
            number(&row["copies"]["count"]),
            millis(&row["copies"]["slowest_us"]),
            when(row),
        );
    }
    let sum = |field: &str| rows.iter().map(|row| number(&row[field])).sum::<u64>();
    println!(
        "\n{} kill points, {} recovered, {} double owners, {} wedged; {} distinct images\n",
        sum("kill_points"),
        sum("recovered"),
        sum("double_owners"),
        sum("wedged"),
        sum("images"),
    );
    let mut news = BTreeMap::<&String, (u64, u64, u64)>::new();
    for (told, times) in rows
        .iter()
        .filter_map(|row| row["news"].as_object())
        .flatten()
    {
        let sums = news.entry(told).or_default();
        sums.0 += number(&times["count"]);
        sums.1 += number(&times["slow"]);
        sums.2 = sums.2.max(number(&times["slowest_us"]));
    }
    println!("| how the death was told | recoveries | over 5 ms | slowest |");
    println!("|---|---:|---:|---:|");
    for (told, (count, slow, slowest)) in news {
        println!(
            "| {told} | {count} | {slow} | {} |",
            millis(&slowest.into())
        );
    }
}

fn soak(rows: &[&Value]) {
    println!("## The soak\n");
    println!(
        "| policy | length | seed | grants | faults | overlaps | unfenced updates lost \
         | fenced updates lost | clean | when |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---|---|");
    for row in rows {
        let tally = &row["tally"];
        let (lost, updates) = (
            number(&tally["unfenced_lost"]),
            number(&tally["unfenced_updates"]),
        );
        let percent = 100.0 * lost as f64 / updates.max(1) as f64;
        println!(
            "| {} | {} s | {} | {} | {} | {} | {lost} of {updates} ({percent:.3} %) \
             | {} of {} | {} | {} |",
            text(&row["policy"]),
            number(&row["seconds"]),
            number(&row["seed"]),
            number(&tally["grants"]),
            number(&row["faults"]),
            number(&tally["overlaps"]),
            number(&tally["fenced_lost"]),
            number(&tally["fenced_updates"]),
            if row["clean"] == true { "yes" } else { "NO" },
            when(row),
        );
    }
}

fn racers(rows: &[&Value]) {
    println!("## Many that reclaim at once\n");
    for row in rows {
        println!(
            "{} racers, {} rounds, {} of them won by exactly one; {}",
            number(&row["racers"]),
            number(&row["rounds"]),
            number(&row["won_once"]),
            when(row)
        );
    }
}

fn bytes(rows: &[&Value]) {
    println!("## Hostile bytes\n");
    for row in rows {
        println!(
            "seed {}: {} images ({} opened, {} refused), {} writes into a table in use, \
             at most {} KiB; {} findings; {}",
            number(&row["seed"]),
            number(&row["images"]),
            number(&row["opened"]),
            number(&row["refused"]),
            number(&row["scribbled_writes"]),
            number(&row["peak_kib"]),
            count(&row["findings"]),
            when(row)
        );
    }
}

fn syscalls(rows: &[&Value]) {
    println!("## Every system call fails\n");
    let is_storm = |row: &&&Value| row["operation"] == "storm";
    let (storms, rows): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(is_storm);
    let sum = |field: &str| rows.iter().map(|row| number(&row[field])).sum::<u64>();
    let findings = rows
        .iter()
        .map(|row| count(&row["findings"]))
        .sum::<usize>();
    println!(
        "{} operations with {} calls; {} failed on purpose, {} of them told as errors; \
         {findings} findings; {}",
        rows.len(),
        sum("calls"),
        sum("shots"),
        sum("errors"),
        rows.last().map(|row| when(row)).unwrap_or_default()
    );
    for storm in storms {
        println!(
            "{} waits that came back at once; {} findings; {}",
            number(&storm["shots"]),
            count(&storm["findings"]),
            when(storm)
        );
    }
}

fn matrix(rows: &[&Value]) {
    println!("## The environment matrix\n");
    let (mut passed, mut failed, mut skipped, mut missing) = (0, 0, 0, 0);
    let mut notes = Vec::new();
    for hazard in ROWS {
        let cells = rows
            .iter()
            .filter(|row| number(&row["row"]) == u64::from(hazard.number));
        let not_passed = |cell: &&&&Value| cell["outcome"] != "Passed";
        let cells = cells.collect::<Vec<_>>();
        let bad = cells
            .iter()
            .copied()
            .filter(|cell| not_passed(&cell))
            .collect::<Vec<_>>();
        for cell in &bad {
            let (test, outcome) = (text(&cell["test"]), text(&cell["outcome"]));
            notes.push(format!(
                "{:2} {}: {test}: {outcome}",
                hazard.number, hazard.hazard
            ));
        }
        match (cells.len(), bad.len()) {
            (0, _) => missing += 1,
            (_, 0) => passed += 1,
            _ if bad.iter().any(|cell| cell["outcome"] == "Failed") => failed += 1,
            _ => skipped += 1,
        }
    }
    println!(
        "{} rows, {} cells: {passed} passed, {failed} failed, {skipped} skipped in part or \
         whole, {missing} not run; {}",
        ROWS.len(),
        rows.len(),
        rows.last().map(|row| when(row)).unwrap_or_default()
    );
    notes.iter().for_each(|note| println!("  {note}"));
}

fn planted(rows: &[&Value]) {
    println!("## Planted bugs\n");
    let mut bugs = BTreeMap::<String, Vec<String>>::new();
    for row in rows {
        let catchers = bugs.entry(text(&row["bug"])).or_default();
        if row["caught"] == true {
            let took = row["seconds"].as_f64().unwrap_or(0.0);
            catchers.push(format!("{} in {took:.1} s", text(&row["catcher"])));
        }
    }
    let caught = bugs
        .values()
        .filter(|catchers| !catchers.is_empty())
        .count();
    let last = rows.last().map(|row| when(row)).unwrap_or_default();
    println!("{caught} caught of {} planted; {last}", bugs.len());
    for (bug, catchers) in bugs {
        let by = match catchers.is_empty() {
            true => "MISSED".to_owned(),
            false => catchers.join(", "),
        };
        println!("  {bug}: {by}");
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn millis(micros: &Value) -> String {
    format!("{:.1} ms", number(micros) as f64 / 1e3)
}

/// The day of a result, and the revision of the source where it is not today's.
fn when(row: &Value) -> String {
    let day = day(number(&row["at"]) / 86_400);
    match row["revision"].as_str() {
        Some(revision) if results::revision().as_deref() != Some(revision) => {
            format!("{day} at {revision}")
        }
        _ => day,
    }
}

/// The date of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn day(since_1970: u64) -> String {
    let shifted = since_1970 + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(19_782), "2024-02-29");
        assert_eq!(day(20_454), "2026-01-01");
    }

    #[test]
    fn a_long_run_is_shown_beside_a_short_one_of_now_and_a_finding_is_never_hidden() {
        let soak = |seconds: u64, clean: bool| json!({ "policy": "OnDeath", "seconds": seconds, "clean": clean });
        let rows = [
            soak(60, true),
            soak(1800, true),
            soak(30, true),
            soak(20, false),
        ];
        let shown = choose(Campaign::Soak, &rows, 3);
        assert_eq!(shown, [&rows[1], &rows[3]]);
        assert!(!is_clean(Campaign::Soak, shown[1]));
        let kills = |kills: u64, clean: bool| json!({ "operation": "try", "kill_points": kills, "clean": clean });
        let rows = [kills(9, true), kills(2, true), kills(3, false)];
        assert_eq!(
            choose(Campaign::Instructions, &rows, 1),
            [&rows[0], &rows[2]]
        );
    }
}
