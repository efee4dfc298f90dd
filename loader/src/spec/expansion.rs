//! How much a spec stands for, before it is expanded: that happens all at once, in memory.

/// The most shards that specs may expand to, and the most bytes that the names of one may have together.
pub(super) const MAX_SHARDS: u64 = 1_000_000;
const MAX_NAME_BYTES: u64 = 256 << 20;
const MAX_SPEC_BYTES: usize = 64 << 10;
const MAX_BRACE_DEPTH: usize = 16;

/// What an expansion gives: names, and their bytes together.
#[derive(Clone, Copy)]
struct Expansion {
    names: u64,
    bytes: u64,
}

impl Expansion {
    const NOTHING: Self = Self { names: 0, bytes: 0 };
    const EMPTY_NAME: Self = Self { names: 1, bytes: 0 };

    fn text(bytes: u64) -> Self {
        Self { names: 1, bytes }
    }

    /// Each name of `self` with each of `other` behind it.
    fn then(self, other: Self) -> Self {
        let (ours, theirs) = (
            self.bytes.saturating_mul(other.names),
            other.bytes.saturating_mul(self.names),
        );
        Self {
            names: self.names.saturating_mul(other.names),
            bytes: ours.saturating_add(theirs),
        }
    }

    /// The names of both.
    fn and(self, other: Self) -> Self {
        Self {
            names: self.names.saturating_add(other.names),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Bounds what brace expansion would give before it is done: it happens all at once, in memory.
pub(super) fn check_expansion(spec: &str) -> std::result::Result<(), String> {
    if spec.len() > MAX_SPEC_BYTES {
        return Err(format!("is longer than {MAX_SPEC_BYTES} bytes"));
    }
    let mut total = Expansion::NOTHING;
    for part in spec.split("::") {
        total = total.and(expansion(part)?);
    }
    if total.names > MAX_SHARDS {
        Err(format!("expands to more than {MAX_SHARDS} shards"))
    } else if total.bytes > MAX_NAME_BYTES {
        Err(format!(
            "expands to names of more than {MAX_NAME_BYTES} bytes together"
        ))
    } else {
        Ok(())
    }
}

/// At least what `part` expands to.
fn expansion(part: &str) -> std::result::Result<Expansion, String> {
    /// An open brace: the expansions of its alternatives before the last comma, and of the one after it.
    struct Group {
        start: usize,
        finished: Expansion,
        current: Expansion,
        plain: bool,
    }
    let mut open: Vec<Group> = Vec::new();
    let mut total = Expansion::EMPTY_NAME;
    let mut escaped = false;
    for (at, symbol) in part.bytes().enumerate() {
        let mut add = |open: &mut Vec<Group>, expansion: Expansion| {
            let outer = open
                .last_mut()
                .map_or(&mut total, |group| &mut group.current);
            *outer = outer.then(expansion);
        };
        if std::mem::take(&mut escaped) {
            add(&mut open, Expansion::text(1));
            continue;
        }
        match symbol {
            b'{' if open.len() == MAX_BRACE_DEPTH => {
                return Err(format!("nests braces deeper than {MAX_BRACE_DEPTH}"));
            }
            b'{' => {
                if let Some(group) = open.last_mut() {
                    group.plain = false;
                }
                open.push(Group {
                    start: at + 1,
                    finished: Expansion::NOTHING,
                    current: Expansion::EMPTY_NAME,
                    plain: true,
                });
            }
            b',' if !open.is_empty() => {
                if let Some(group) = open.last_mut() {
                    group.finished = group.finished.and(group.current);
                    (group.current, group.plain) = (Expansion::EMPTY_NAME, false);
                }
            }
            b'}' => {
                // An unbalanced one is for the expansion itself to name.
                let Some(group) = open.pop() else { continue };
                let inside = &part[group.start..at];
                let expansion = match group.plain {
                    true => {
                        let (names, width) = (range_len(inside)?, inside.len() as u64 + 2);
                        Expansion {
                            names,
                            bytes: names.saturating_mul(width),
                        }
                    }
                    // With its braces, which stay where there is no comma.
                    false => group.finished.and(group.current.then(Expansion::text(2))),
                };
                add(&mut open, expansion);
            }
            _ => {
                escaped = symbol == b'\\';
                add(&mut open, Expansion::text(1));
            }
        }
    }
    Ok(total)
}

/// How many names `a..b` or `a..b..step` stands for; 1 for any other text.
pub(super) fn range_len(text: &str) -> std::result::Result<u64, String> {
    const LARGEST: u64 = 1_000_000_000_000_000;
    let mut parts = text.split("..");
    let (Some(first), Some(last)) = (parts.next(), parts.next()) else {
        return Ok(1);
    };
    // The expansion counts with 64 bits, letters with 32.
    let step = parts.next().unwrap_or("1").trim_start_matches('-');
    let is_number = !step.is_empty() && step.bytes().all(|digit| digit.is_ascii_digit());
    let step = step.parse().map_or(u64::MAX, |step: u64| step.max(1));
    let numbers = (first.parse::<i128>(), last.parse::<i128>());
    let largest = if numbers.0.is_ok() { LARGEST } else { 1000 };
    if is_number && step > largest {
        return Err(format!("has a range with a step beyond {largest}"));
    }
    let (Ok(first), Ok(last)) = numbers else {
        // Letters: a range of at most the alphabet in both cases and what lies between.
        return Ok(64);
    };
    if first.unsigned_abs().max(last.unsigned_abs()) > LARGEST.into() {
        return Err("has a range of numbers beyond 10^15".into());
    }
    Ok(first.abs_diff(last) as u64 / step + 1)
}
