//! The one way in which tests wait for something that no notice comes for.

use std::time::{Duration, Instant};

/// Asks again and again until the answer is there, and gives it.
///
/// # Panics
/// When `limit` has passed: the text names the event that was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    const PAUSE: Duration = Duration::from_millis(20);
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            started.elapsed() < limit,
            "waited {limit:?} for {what} in vain"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
