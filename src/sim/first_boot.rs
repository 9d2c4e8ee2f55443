//! cloud-init on a simulated machine: it does one thing, `phone_home`, as cloud-init 22.4 does it.

use std::time::Duration;

use crate::agent::link::chain;
use crate::sim::pace::Pace;
use crate::wire::agent::Seed;

/// cloud-init's default for `phone_home`.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_secs(3);

/// Posts the form to the URL of the seed's `phone_home`. Returns the line cloud-init logs.
///
/// # Errors
/// A sentence: no `phone_home` in the seed, or nobody took the form.
pub async fn phone_home(http: &reqwest::Client, seed: &Seed, pace: Pace) -> Result<String, String> {
    let instance = field(&seed.meta_data, "instance-id").unwrap_or_else(|| "nocloud".into());
    let hostname =
        field(&seed.meta_data, "local-hostname").or_else(|| field(&seed.meta_data, "hostname")).unwrap_or_else(|| "localhost".into());
    // vendor-data is used as far as user-data does not say otherwise.
    let url = [&seed.user_data, &seed.vendor_data].into_iter().find_map(|data| phone_home_url(data));
    let url = url.ok_or("no phone_home in the seed")?.replace("$INSTANCE_ID", &instance);
    let mut form = reqwest::Url::parse("http://form/").map_err(|e| e.to_string())?;
    form.query_pairs_mut()
        .append_pair("pub_key_ed25519", &format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNpbXVsYXRlZA root@{hostname}"))
        .append_pair("instance_id", &instance)
        .append_pair("hostname", &hostname)
        .append_pair("fqdn", &hostname);
    let body = form.query().unwrap_or_default().to_owned();
    let mut last = String::new();
    for _ in 0..TRIES {
        let request = http.post(&url).header("Content-Type", "application/x-www-form-urlencoded").header("User-Agent", "Cloud-Init/22.4.2");
        match request.timeout(Duration::from_secs(10)).body(body.clone()).send().await {
            Ok(response) if response.status().is_success() => {
                return Ok(format!("cloud-init: phoned home to {}", response.url().host_str().unwrap_or("?")));
            }
            Ok(response) => last = format!("{} answered {}", response.url().host_str().unwrap_or("?"), response.status()),
            Err(e) => last = chain(&e),
        }
        pace.pass(BETWEEN).await;
    }
    Err(format!("phone_home failed {TRIES} times: {last}"))
}

/// The `url` under `phone_home:`. Enough YAML for what is indented below one key; cloud-config that says it in another
/// way is not ours.
fn phone_home_url(cloud_config: &str) -> Option<String> {
    let mut lines = cloud_config.lines().skip_while(|line| line.trim_end() != "phone_home:");
    lines.next()?;
    let block: Vec<&str> = lines.take_while(|line| line.starts_with([' ', '\t']) || line.trim().is_empty()).collect();
    field(&block.join("\n"), "url")
}

fn field(yaml: &str, name: &str) -> Option<String> {
    let value = yaml.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?.trim();
    let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
    (!bare.is_empty()).then(|| bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_found_only_under_phone_home() {
        let config = "#cloud-config\nother:\n  url: http://no/\nphone_home:\n  url: \"http://10.0.0.1:8081/phone-home/abc\"\n  post: all\n  tries: 10\nlast:\n  url: no\n";
        assert_eq!(phone_home_url(config).as_deref(), Some("http://10.0.0.1:8081/phone-home/abc"));
        assert_eq!(phone_home_url("#cloud-config\nurl: http://no/\n"), None);
    }

    #[test]
    fn meta_data_fields_are_read_bare() {
        assert_eq!(field("instance-id: 'i-1'\nlocal-hostname: r12-u03\n", "local-hostname").as_deref(), Some("r12-u03"));
        assert_eq!(field("instance-id: 'i-1'\n", "instance-id").as_deref(), Some("i-1"));
    }
}
