//! Sets of parameters, as the table of parameters has them (`build.rs`).

use sockpilot_policy::model::{Parameters, Value};

use crate::v1;

include!(concat!(env!("OUT_DIR"), "/parameters.rs"));

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Name(_) => None,
    }
}

fn on(value: &Value) -> Option<bool> {
    number(value).map(|number| number != 0)
}

fn name(value: &Value) -> Option<String> {
    match value {
        Value::Name(name) => Some(name.clone()),
        Value::Number(_) => None,
    }
}
