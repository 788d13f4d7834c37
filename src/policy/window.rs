//! Time windows: the values of the `when` key `time`, an extension.
//!
//! A value is a weekly window, `[days] HH:MM-HH:MM [zone]`, or one interval, `start/end` of RFC 3339 times, where `..`
//! leaves an end open (ISO 8601-2). Starts count, ends do not. Days are `Mon`, `Mon-Fri` or `Mon,Wed,Fri`; without them
//! it is every day. A window whose end is not after its start runs over midnight and belongs to the day it starts on.
//! The zone is `UTC` (also if it is left out), an offset such as `+02:00`, or an IANA name such as `Europe/Berlin`; there
//! the clock on the wall counts, also on the days on which it is changed.

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};

const DAY_MIN: u16 = 24 * 60;
const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// One value.
#[derive(Clone, Debug)]
pub(super) enum Window {
    /// Seconds since the Unix epoch, the end not included.
    Interval { from: i64, to: i64 },
    /// The same time every week.
    Weekly(Weekly),
}

/// A window of the wall clock.
#[derive(Clone, Debug)]
pub(super) struct Weekly {
    /// By day, Monday first.
    days: [bool; 7],
    /// Minutes since midnight.
    from: u16,
    /// Minutes since midnight, at most 24:00.
    to: u16,
    zone: TimeZone,
}

impl Window {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(value: &str) -> Result<Self, String> {
        if let Some((from, to)) = value.split_once('/')
            && (from == ".." || is_dated(from))
        {
            return interval(from, to);
        }
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        let is_clock = |word: &&str| word.contains(':') && !word.starts_with(['+', '-']);
        let (days, rest) = match words.as_slice() {
            [first, rest @ ..] if !is_clock(first) => (Some(*first), rest),
            all => (None, all),
        };
        let (clock, zone) = match rest {
            [clock] => (*clock, "UTC"),
            [clock, zone] => (*clock, *zone),
            _ => return Err(expected()),
        };
        let (from, to) = clock.split_once('-').ok_or_else(expected)?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == to {
            return Err(
                "starts and ends at the same time; write 00:00-24:00 for a whole day".to_owned(),
            );
        }
        if from == DAY_MIN {
            return Err("a window cannot start at 24:00, expected 00:00".to_owned());
        }
        Ok(Self::Weekly(Weekly {
            days: days.map_or(Ok([true; 7]), days_of)?,
            from,
            to,
            zone: zone_of(zone)?,
        }))
    }

    /// Whether a time, in seconds since the Unix epoch, is inside.
    pub(super) fn contains(&self, unix_s: i64) -> bool {
        match self {
            Self::Interval { from, to } => (*from..*to).contains(&unix_s),
            Self::Weekly(weekly) => weekly.contains(unix_s),
        }
    }
}

impl Weekly {
    fn contains(&self, unix_s: i64) -> bool {
        let Ok(time) = Timestamp::from_second(unix_s) else {
            return false;
        };
        let local = self.zone.to_datetime(time);
        let minute =
            u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let today = local.weekday();
        if self.from < self.to {
            return self.on(today) && (self.from..self.to).contains(&minute);
        }
        (self.on(today) && minute >= self.from) || (self.on(today.previous()) && minute < self.to)
    }

    fn on(&self, day: Weekday) -> bool {
        let at = usize::from(day.to_monday_zero_offset().unsigned_abs());
        self.days.get(at).copied().unwrap_or(false)
    }
}

/// Whether it begins like an RFC 3339 time: a day of the week or a time of day does not.
fn is_dated(text: &str) -> bool {
    let year = text.bytes().take_while(u8::is_ascii_digit).count();
    year > 0 && text.as_bytes().get(year) == Some(&b'-') && text.contains('T')
}

fn expected() -> String {
    "expected `[days] HH:MM-HH:MM [zone]`, such as `Mon-Fri 08:00-18:00 Europe/Berlin`, or `start/end` of RFC 3339 times"
        .to_owned()
}

fn interval(from: &str, to: &str) -> Result<Window, String> {
    let end = |text: &str, open: i64| {
        if text == ".." {
            return Ok(open);
        }
        text.parse::<Timestamp>()
            .map(Timestamp::as_second)
            .map_err(|_e| {
                format!(
                    "`{}` is not an RFC 3339 time with its offset",
                    text.escape_debug()
                )
            })
    };
    let (from, to) = (end(from, i64::MIN)?, end(to, i64::MAX)?);
    if from >= to {
        return Err("ends before it starts".to_owned());
    }
    if (from, to) == (i64::MIN, i64::MAX) {
        return Err("has neither start nor end".to_owned());
    }
    Ok(Window::Interval { from, to })
}

/// `HH:MM`, up to 24:00.
fn minutes(text: &str) -> Result<u16, String> {
    let bad = || {
        format!(
            "`{}` is not a time of day from 00:00 to 24:00",
            text.escape_debug()
        )
    };
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| two)
    };
    let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
    let (hour, minute) = number(hour).zip(number(minute)).ok_or_else(bad)?;
    let all = hour.saturating_mul(60).saturating_add(minute);
    if minute < 60 && all <= DAY_MIN {
        Ok(all)
    } else {
        Err(bad())
    }
}

/// `Mon`, `Mon-Fri` (also over the end of the week) or a list of them.
fn days_of(text: &str) -> Result<[bool; 7], String> {
    let day = |name: &str| {
        NAMES
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| {
                format!(
                    "`{}` is not one of {}",
                    name.escape_debug(),
                    NAMES.join(", ")
                )
            })
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut at = first;
        loop {
            if let Some(on) = days.get_mut(at) {
                *on = true;
            }
            if at == last {
                break;
            }
            at = (at + 1) % NAMES.len();
        }
    }
    Ok(days)
}

fn zone_of(name: &str) -> Result<TimeZone, String> {
    let bad = || {
        format!(
            "`{}` is not a time zone: expected `UTC`, an offset such as `+02:00` or a name such as `Europe/Berlin`",
            name.escape_debug()
        )
    };
    if let Some((sign, clock)) = name
        .strip_prefix('+')
        .map(|c| (1, c))
        .or_else(|| name.strip_prefix('-').map(|c| (-1, c)))
    {
        let offset = minutes(clock).map_err(|_e| bad())?;
        let seconds = i32::from(offset) * 60 * sign;
        return Offset::from_seconds(seconds)
            .map(TimeZone::fixed)
            .map_err(|_e| bad());
    }
    // Names only as they are written in the database: `europe/berlin` would be found as well.
    let zone = TimeZone::get(name).map_err(|_e| bad())?;
    if zone.iana_name() == Some(name) || name == "UTC" {
        Ok(zone)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, time: &str, want: bool) {
        let unix_s = time.parse::<Timestamp>().unwrap().as_second();
        let window = Window::parse(value).unwrap();
        assert_eq!(window.contains(unix_s), want, "{value} at {time}");
    }

    #[test]
    fn weekly() {
        // 2026-11-25 is a Wednesday.
        check("08:00-18:00", "2026-11-25T08:00:00Z", true);
        check("08:00-18:00", "2026-11-25T17:59:59Z", true);
        check("08:00-18:00", "2026-11-25T18:00:00Z", false);
        check("00:00-24:00", "2026-11-25T23:59:59Z", true);
        check("Mon-Fri 08:00-18:00", "2026-11-28T12:00:00Z", false);
        check("Sat-Mon 08:00-18:00", "2026-11-30T12:00:00Z", true);
        check("Mon,Wed 08:00-18:00 UTC", "2026-11-25T12:00:00Z", true);
        check("Tue,Thu-Fri 08:00-18:00", "2026-11-25T12:00:00Z", false);
        // Over midnight: the night from Wednesday to Thursday.
        check("Wed 22:00-06:00", "2026-11-25T22:30:00Z", true);
        check("Wed 22:00-06:00", "2026-11-26T05:59:59Z", true);
        check("Wed 22:00-06:00", "2026-11-25T05:00:00Z", false);
        check("Wed 22:00-06:00", "2026-11-26T22:30:00Z", false);
    }

    #[test]
    fn zones() {
        check("08:00-18:00 +02:00", "2026-11-25T06:00:00Z", true);
        check("08:00-18:00 -05:00", "2026-11-25T12:59:00Z", false);
        // Berlin is at +01:00 in winter and +02:00 in summer.
        check(
            "Wed 08:00-18:00 Europe/Berlin",
            "2026-11-25T07:00:00Z",
            true,
        );
        check(
            "Wed 08:00-18:00 Europe/Berlin",
            "2026-11-25T17:00:00Z",
            false,
        );
        check(
            "Wed 08:00-18:00 Europe/Berlin",
            "2026-07-01T06:00:00Z",
            true,
        );
        // A `T` is in the names of days too.
        check(
            "Tue,Thu 08:00-18:00 Europe/Berlin",
            "2026-11-26T07:00:00Z",
            true,
        );
        check("08:00-18:00 America/Toronto", "2026-11-26T13:00:00Z", true);
        check(
            "Sat 23:00-24:00 America/New_York",
            "2026-11-29T04:30:00Z",
            true,
        );
    }

    #[test]
    fn intervals() {
        let day = "2026-11-25T00:00:00Z/2026-11-26T00:00:00+00:00";
        check(day, "2026-11-25T00:00:00Z", true);
        check(day, "2026-11-26T00:00:00Z", false);
        check("2026-11-25T02:00:00+02:00/..", "2026-11-25T00:00:00Z", true);
        check("../2026-11-25T00:00:00Z", "2026-11-25T00:00:00Z", false);
        check("../2026-11-25T00:00:00Z", "1971-01-01T00:00:00Z", true);
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "Mon",
            "8:00-18:00",
            "08:00-08:00",
            "24:00-06:00",
            "08:00-24:01",
            "08:60-09:00",
            "mon 08:00-18:00",
            "Mon- 08:00-18:00",
            "Mon,, 08:00-18:00",
            "08:00-18:00 Mars/Base",
            "08:00-18:00 europe/berlin",
            "08:00-18:00 +2",
            "08:00-18:00 UTC UTC",
            "08:00",
            "../..",
            "2026-11-25T00:00:00/..",
            "2026-11-26T00:00:00Z/2026-11-25T00:00:00Z",
            "2026-11-25/2026-11-26",
        ] {
            assert!(Window::parse(bad).is_err(), "{bad}");
        }
    }
}
