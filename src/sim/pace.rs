//! The time of simulated machines: they live `speed` times faster than real ones.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    speed: f64,
}

impl Default for Pace {
    /// Real time.
    fn default() -> Self {
        Self { speed: 1.0 }
    }
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0} is no speed; use a number from 0.1 to 1000")]
pub struct BadSpeed(pub String);

impl std::str::FromStr for Pace {
    type Err = BadSpeed;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadSpeed(s.chars().take(20).collect());
        let speed: f64 = s.trim().parse().map_err(|_| bad())?;
        if (0.1..=1000.0).contains(&speed) { Ok(Self { speed }) } else { Err(bad()) }
    }
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.speed.fmt(f)
    }
}

impl Pace {
    pub fn speed(self) -> f64 {
        self.speed
    }

    /// How long `machine_time` really takes.
    pub fn real(self, machine_time: Duration) -> Duration {
        machine_time.div_f64(self.speed)
    }

    /// Lets `machine_time` pass.
    pub async fn pass(self, machine_time: Duration) {
        tokio::time::sleep(self.real(machine_time)).await;
    }

    /// A wait for an answer over the wire. The service is not `speed` times faster than a real one, so the wait never
    /// falls below what a real exchange needs on a busy host.
    pub fn patience(self, machine_time: Duration) -> Duration {
        const LEAST: Duration = Duration::from_millis(750);
        self.real(machine_time).max(LEAST.min(machine_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_times_faster_is_a_twentieth_of_the_time() {
        let pace: Pace = "20".parse().unwrap();
        assert_eq!(pace.real(Duration::from_secs(60)), Duration::from_secs(3));
        assert_eq!(pace.patience(Duration::from_secs(4)), Duration::from_millis(750));
        assert!("0".parse::<Pace>().is_err() && "nan".parse::<Pace>().is_err() && "-1".parse::<Pace>().is_err());
    }
}
