//! Compiles the protos without `protoc`, and writes the conversions that follow from the tables of parameters
//! and of quantities.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

use sockpilot_outcomes::{Aggregate, QUANTITIES};
use sockpilot_policy::parameter::{Kind, PARAMETERS};

const PROTOS: [&str; 12] = [
    "sockpilot/v1/access.proto",
    "sockpilot/v1/parameters.proto",
    "sockpilot/v1/layer.proto",
    "sockpilot/v1/flow.proto",
    "sockpilot/v1/outcomes.proto",
    "sockpilot/v1/node.proto",
    "sockpilot/v1/admin.proto",
    "sockpilot/v1/backup.proto",
    "sockpilot/v1/results.proto",
    "sockpilot/v1/rollout.proto",
    "sockpilot/v1/gates.proto",
    "sockpilot/v1/simulate.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    // As it was compiled: options of our own, such as who may call a method, are lost in prost's own messages.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    // Clients are made from a channel that the caller has configured; a generated `connect` would also clash with the RPC.
    let mut messages = prost_build::Config::new();
    messages.enable_type_names();
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::SmallBuffers")
        .bytes(".")
        .compile_fds_with_config(descriptors, messages)?;
    fs::write(out.join("parameters.rs"), parameters()?)?;
    fs::write(out.join("quantities.rs"), quantities())?;
    Ok(())
}

/// `from` and `to` with every field named, so that table and proto cannot drift apart without a build error.
fn parameters() -> Result<String, std::fmt::Error> {
    let (mut names, mut from, mut to) = (String::new(), String::new(), String::new());
    for (slot, parameter) in PARAMETERS.iter().enumerate() {
        let name = parameter.name;
        write!(names, "{name}, ")?;
        let (read, write) = match parameter.kind {
            Kind::Number { .. } => ("Value::Number(*value)", "number"),
            Kind::On | Kind::Switch => ("Value::Number(u32::from(*value))", "on"),
            Kind::Name => ("Value::Name(value.clone())", "name"),
        };
        writeln!(from, "    if let Some(value) = {name} {{ set = set.with({slot}, {read}); }}")?;
        writeln!(to, "        {name}: set.get({slot}).and_then({write}),")?;
    }
    Ok(format!(
        "pub(super) fn parameters_from_proto(message: &v1::Parameters) -> Parameters {{\n    let v1::Parameters {{ {names}}} = message;\n    \
         let mut set = Parameters::default();\n{from}    set\n}}\n\n\
         /// A set of parameters as it stands on the wire.\n#[must_use]\npub fn parameters_to_proto(set: &Parameters) -> v1::Parameters {{\n    v1::Parameters {{\n{to}    }}\n}}\n"
    ))
}

/// Conversions of everything that cells and rows of outcomes hold, with every field named.
fn quantities() -> String {
    let names = |sums: bool| {
        let of_kind = QUANTITIES.iter().filter(|quantity| matches!(quantity.aggregate, Aggregate::Sum(_)) == sums);
        of_kind.map(|quantity| quantity.name).collect::<Vec<_>>()
    };
    let (sums, distributions) = (names(true).join(", "), names(false));
    let each = |form: &dyn Fn(&str) -> String| distributions.iter().map(|name| form(name)).collect::<String>();
    let all = distributions.join(", ");
    format!(
        "fn counts_from_proto(message: &v1::FlowCounts) -> Counts {{
    let v1::FlowCounts {{ {sums} }} = *message;
    Counts {{ {sums} }}
}}

fn counts_to_proto(counts: &Counts) -> v1::FlowCounts {{
    let Counts {{ {sums} }} = *counts;
    v1::FlowCounts {{ {sums} }}
}}

fn distributions_from_proto(cell: &v1::FlowCell, faults: &mut Vec<CellFault>) -> Distributions {{
    let v1::FlowCell {{ interval_start_s: _, interval_length_s: _, layer: _, revision: _, choice: _, direction: _, size_class: _, counts: _, measured: _, {all} }} = cell;
    Distributions {{ {} }}
}}

fn distributions_to_proto(distributions: &Distributions, cell: &mut v1::FlowCell) {{
    let Distributions {{ {all} }} = distributions;
{}}}

fn quantiles_to_proto(distributions: &Distributions, row: &mut v1::OutcomeRow) {{
    let Distributions {{ {all} }} = distributions;
{}}}
",
        each(&|name| format!("{name}: distribution_from_proto(\"{name}\", {name}.as_ref(), faults), ")),
        each(&|name| format!("    cell.{name} = distribution_to_proto({name});\n")),
        each(&|name| format!("    row.{name} = Some(quantiles({name}.summary()));\n")),
    )
}
