//! What people and controllers decide: policies, experiments, who gets which revision, the zone map.
//!
//! Pure are [`document`], [`target`], [`wave`], [`zones`], [`names`], [`groups`], [`reach`], [`notes`], [`author`], [`json`], [`difference`], [`plan`], which decides what a
//! change does, and [`backup`], which decides what restoring one does. The use cases make the changes, each in the transaction of its
//! caller: [`access`], [`apply`] (within [`bounds`]), [`zone_map`], [`record_flows`], [`remove_node`], [`restore`].

pub mod access;
pub mod apply;
pub mod author;
pub mod backup;
pub mod bounds;
pub mod conclude;
pub mod difference;
pub mod document;
pub mod groups;
pub mod json;
pub mod names;
pub mod notes;
pub mod plan;
pub mod planned;
pub mod reach;
pub mod record_flows;
pub mod remove_node;
pub mod restore;
pub mod selector;
pub mod target;
pub mod wave;
pub mod zone_map;
pub mod zones;
