//! The plots: lines over a few categories, one panel a variant, on a logarithmic axis.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::peers::Name;
use crate::rows::figure;
use crate::targets::Figures;
use crate::{Failure, contend, crash};

/// One set of axes.
struct Panel {
    caption: String,
    categories: Vec<String>,
    series: Vec<(Name, Vec<Option<f64>>)>,
}

const PANEL: (u32, u32) = (380, 430);
const LEGEND: u32 = 200;
const TITLE: u32 = 44;
const FONT: &str = "sans-serif";

/// Each lock has its colour and its sign in every plot.
fn colour(peer: Name) -> RGBColor {
    const COLOURS: [(u8, u8, u8); 12] = [
        (214, 39, 40),
        (60, 60, 60),
        (150, 150, 150),
        (31, 119, 180),
        (23, 80, 160),
        (148, 103, 189),
        (140, 86, 75),
        (44, 160, 44),
        (188, 160, 20),
        (120, 200, 120),
        (23, 190, 207),
        (227, 119, 194),
    ];
    let index = Name::ALL.iter().position(|name| *name == peer);
    let (red, green, blue) = COLOURS[index.unwrap_or(0) % COLOURS.len()];
    RGBColor(red, green, blue)
}

fn width(peer: Name) -> u32 {
    if peer == Name::Caslock { 4 } else { 2 }
}

/// Draws all that the rows have figures for.
///
/// # Errors
/// What the file system answers.
pub fn draw(figures: Figures<'_>, out: &Path) -> Result<(), Failure> {
    let cells = figures.cells(contend::WORKLOAD);
    let mut sections: Vec<u64> = cells.iter().map(|cell| cell.1).collect();
    sections.dedup();
    let throughput: Vec<_> = sections
        .iter()
        .map(|&section| throughput(figures, &cells, section))
        .collect();
    let waits: Vec<_> = sections
        .iter()
        .map(|&section| waits(figures, section))
        .collect();
    chart(
        &out.join("throughput.svg"),
        "Contended throughput: million pairs a second, by processes",
        &throughput,
    )?;
    chart(
        &out.join("waits.svg"),
        "How long 8 processes wait for one lock: milliseconds",
        &waits,
    )?;
    chart(
        &out.join("crash.svg"),
        "SIGKILL of the holder to the next grant: microseconds, by resident size",
        &[crashes(figures)],
    )
}

fn section_name(ns: u64) -> String {
    match ns {
        0 => "empty section".into(),
        ns => format!("section of {} us", figure(ns as f64 / 1e3)),
    }
}

fn throughput(figures: Figures<'_>, cells: &[(u32, u64)], section: u64) -> Panel {
    let cells: Vec<_> = cells.iter().filter(|cell| cell.1 == section).collect();
    let values = |&peer: &Name| {
        let of = |cell: &&(u32, u64)| figures.cell(contend::WORKLOAD, **cell, peer, "throughput");
        (peer, cells.iter().map(of).collect())
    };
    Panel {
        caption: section_name(section),
        categories: cells.iter().map(|cell| cell.0.to_string()).collect(),
        series: Name::ALL.iter().map(values).collect(),
    }
}

fn waits(figures: Figures<'_>, section: u64) -> Panel {
    const QUANTILES: [&str; 4] = ["p50", "p99", "p99.9", "max"];
    /// What is shown of a wait that took no time to speak of.
    const LEAST_MS: f64 = 1e-5;
    let values = |&peer: &Name| {
        let of = |quantile| {
            let metric = format!("wait {quantile}");
            let wait = figures.cell(contend::WORKLOAD, (8, section), peer, &metric)?;
            Some(wait.max(LEAST_MS))
        };
        (peer, QUANTILES.into_iter().map(of).collect())
    };
    Panel {
        caption: section_name(section),
        categories: QUANTILES.map(String::from).to_vec(),
        series: Name::ALL.iter().map(values).collect(),
    }
}

fn crashes(figures: Figures<'_>) -> Panel {
    let cells = figures.cells(crash::WORKLOAD);
    let values = |peer: Name| {
        let of = |cell: &(u32, u64)| figures.cell(crash::WORKLOAD, *cell, peer, "kill to grant");
        (peer, cells.iter().map(of).collect())
    };
    Panel {
        caption: "memory of the holder".into(),
        categories: cells.iter().map(|cell| bytes(cell.1)).collect(),
        series: crash::PEERS.into_iter().map(values).collect(),
    }
}

/// A resident size as a person reads it.
#[must_use]
pub fn bytes(size: u64) -> String {
    match size {
        0 => "small".into(),
        size if size < 1 << 30 => format!("{} MiB", size >> 20),
        size => format!("{} GiB", size >> 30),
    }
}

fn chart(path: &Path, title: &str, panels: &[Panel]) -> Result<(), Failure> {
    if panels.iter().all(|panel| panel.values().next().is_none()) {
        return Ok(());
    }
    // A single panel has room to be wide.
    let panel_width = if panels.len() == 1 { 560 } else { PANEL.0 };
    let plots = panel_width * panels.len() as u32;
    let root = SVGBackend::new(path, (plots + LEGEND, TITLE + PANEL.1)).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let (head, body) = root.split_vertically(TITLE);
    head.draw_text(title, &(FONT, 20).into_text_style(&head), (14, 14))
        .map_err(drawing)?;
    let (left, right) = body.split_horizontally(plots);
    for (area, panel) in left.split_evenly((1, panels.len())).iter().zip(panels) {
        axes(area, panel)?;
    }
    legend(&right, panels)?;
    root.present().map_err(drawing)
}

impl Panel {
    fn values(&self) -> impl Iterator<Item = f64> {
        let all = self.series.iter().flat_map(|(_, values)| values);
        all.filter_map(|value| *value)
    }
}

fn axes(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel) -> Result<(), Failure> {
    let low = panel.values().fold(f64::INFINITY, f64::min);
    let high = panel.values().fold(0.0, f64::max);
    if high <= 0.0 {
        return Ok(());
    }
    let last = panel.categories.len() as f64 - 0.5;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.caption, (FONT, 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..last, (low / 1.5..high * 1.5).log_scale())
        .map_err(drawing)?;
    let name = |at: &f64| {
        let is_category = (at - at.round()).abs() < 1e-6;
        let name = panel.categories.get(at.round() as usize);
        name.filter(|_| is_category && *at > -0.1)
            .cloned()
            .unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_labels(panel.categories.len() * 2 + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|value| figure(*value))
        .label_style((FONT, 14))
        .draw()
        .map_err(drawing)?;
    // caslock last, over the others.
    for (peer, values) in panel.series.iter().rev() {
        let points = || {
            let at = values.iter().enumerate();
            at.filter_map(|(at, value)| Some((at as f64, (*value)?)))
        };
        let style = colour(*peer).stroke_width(width(*peer));
        chart
            .draw_series(LineSeries::new(points(), style))
            .map_err(drawing)?;
        chart
            .draw_series(
                points().map(|at| Circle::new(at, 2 + width(*peer), colour(*peer).filled())),
            )
            .map_err(drawing)?;
    }
    Ok(())
}

fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, panels: &[Panel]) -> Result<(), Failure> {
    let mut peers: Vec<Name> = panels
        .iter()
        .flat_map(|panel| &panel.series)
        .filter(|(_, values)| values.iter().any(Option::is_some))
        .map(|(peer, _)| *peer)
        .collect();
    peers.sort_unstable();
    peers.dedup();
    for (line, peer) in peers.into_iter().enumerate() {
        let y = 50 + 26 * line as i32;
        let style = colour(peer).stroke_width(width(peer));
        area.draw(&PathElement::new([(6, y), (34, y)], style))
            .map_err(drawing)?;
        let text = (FONT, 14).into_text_style(area);
        area.draw_text(peer.label(), &text, (42, y - 7))
            .map_err(drawing)?;
    }
    Ok(())
}

fn drawing(error: impl std::fmt::Display) -> Failure {
    format!("drawing: {error}").into()
}
