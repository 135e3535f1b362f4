//! Windows in which nothing may begin.

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;

use crate::plan::seconds;

/// The longest repeated window, in seconds.
const LENGTH_S_MAX: i64 = 7 * 86_400;

/// A window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What it is for.
    pub description: String,
    when: When,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Once { from_s: i64, to_s: i64 },
    Weekly { weekdays: Vec<u32>, at: NaiveTime, length_s: i64, zone: Tz },
}

/// Reads a window.
pub fn window_from_proto(faults: &mut Collector, message: &v1::FreezeWindow) -> Option<Window> {
    let v1::FreezeWindow { description, weekdays, start_time_of_day, duration, time_zone, start_time, end_time } =
        message;
    let when = if weekdays.is_empty() {
        once(start_time.as_ref(), end_time.as_ref(), faults)
    } else {
        weekly(weekdays, start_time_of_day, duration.as_ref(), time_zone, faults)
    };
    Some(Window { description: description.clone(), when: when? })
}

fn once(
    start: Option<&prost_types::Timestamp>,
    end: Option<&prost_types::Timestamp>,
    faults: &mut Collector,
) -> Option<When> {
    let (Some(start), Some(end)) = (start, end) else {
        faults.add_at("start_time", "is missing, or end_time is; say both, or weekdays");
        return None;
    };
    if end.seconds <= start.seconds {
        faults.add_at("end_time", "is not after start_time");
    }
    Some(When::Once { from_s: start.seconds, to_s: end.seconds })
}

fn weekly(
    weekdays: &[u32],
    at: &str,
    duration: Option<&prost_types::Duration>,
    zone: &str,
    faults: &mut Collector,
) -> Option<When> {
    if weekdays.iter().any(|day| !(1..=7).contains(day)) {
        faults.add_at("weekdays", "has a day that is none; write 1 (Monday) to 7 (Sunday)");
    }
    let length_s = seconds("duration", duration, 0, faults);
    if !(1..=LENGTH_S_MAX).contains(&length_s) {
        faults.add_at("duration", "is how long it lasts; write more than nothing, and at most 7 days");
    }
    let at = faults.field("start_time_of_day", |faults| {
        faults.take(NaiveTime::parse_from_str(at, "%H:%M").map_err(|_| format!("is \"{at}\"; write it as 18:00")))
    });
    let named = if zone.is_empty() { Ok(Tz::UTC) } else { zone.parse::<Tz>() };
    let zone = faults.field("time_zone", |faults| {
        faults.take(named.map_err(|_| format!("\"{zone}\" is no time zone; write one as Europe/Berlin")))
    });
    Some(When::Weekly { weekdays: weekdays.to_vec(), at: at?, length_s, zone: zone? })
}

impl Window {
    /// Whether a moment is in it.
    #[must_use]
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        match &self.when {
            When::Once { from_s, to_s } => (*from_s..*to_s).contains(&now.timestamp()),
            When::Weekly { weekdays, at, length_s, zone } => {
                let today = now.with_timezone(zone).date_naive();
                let began = |ago: u64| {
                    let day = today.checked_sub_days(Days::new(ago))?;
                    weekdays.contains(&day.weekday().number_from_monday()).then_some(())?;
                    // A time that the clocks skip begins when they have skipped it; one that comes twice, at the first.
                    let start = zone.from_local_datetime(&day.and_time(*at));
                    let start = start
                        .earliest()
                        .or_else(|| zone.from_local_datetime(&(day.and_time(*at) + TimeDelta::hours(1))).earliest())?;
                    Some(start.timestamp())
                };
                (0..=7).filter_map(began).any(|from_s| (from_s..from_s + length_s).contains(&now.timestamp()))
            }
        }
    }
}

/// The window that a moment is in.
#[must_use]
pub fn holding(windows: &[Window], now: DateTime<Utc>) -> Option<&Window> {
    windows.iter().find(|window| window.holds(now))
}
