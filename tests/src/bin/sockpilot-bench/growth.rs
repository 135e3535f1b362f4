//! How the time to the last node grows with their number, as a picture beside etcd's.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::results;

const SIZE: (u32, u32) = (900, 540);
/// In the order of [`Point`]'s values.
const LINES: [(&str, RGBColor, f64); 4] = [
    ("sockpilot p99", RGBColor(0x0b, 0x6e, 0x99), 1.0),
    ("sockpilot p50", RGBColor(0x0b, 0x6e, 0x99), 0.5),
    ("etcd p99", RGBColor(0xb3, 0x4d, 0x00), 1.0),
    ("etcd p50", RGBColor(0xb3, 0x4d, 0x00), 0.5),
];

/// What was measured with a number of nodes: milliseconds until the last has a change.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub nodes: usize,
    pub p99_ms: f64,
    pub p50_ms: f64,
    pub etcd_p99_ms: f64,
    pub etcd_p50_ms: f64,
}

/// Draws it, and says where.
pub fn draw(points: &[Point]) -> Result<PathBuf> {
    let path = results()?.join("fanout-growth.svg");
    let values = |point: &Point| [point.p99_ms, point.p50_ms, point.etcd_p99_ms, point.etcd_p50_ms];
    let nodes_max = points.iter().map(|point| point.nodes).max().context("nothing was measured")? as f64;
    let ms_max = points.iter().flat_map(values).fold(1.0, f64::max) * 1.1;
    {
        let root = SVGBackend::new(&path, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(fault)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("One durable change: milliseconds until the last node has it", ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..nodes_max * 1.02, 0.0..ms_max)
            .map_err(fault)?;
        chart.configure_mesh().x_desc("nodes").y_desc("ms").draw().map_err(fault)?;
        for (at, (name, colour, strength)) in LINES.into_iter().enumerate() {
            let style = colour.mix(strength).stroke_width(2);
            let line: Vec<_> = points.iter().map(|point| (point.nodes as f64, values(point)[at])).collect();
            let series = LineSeries::new(line, style).point_size(3);
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style);
            chart.draw_series(series).map_err(fault)?.label(name).legend(legend);
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(fault)?;
        root.present().map_err(fault)?;
    }
    Ok(path)
}

fn fault(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}
