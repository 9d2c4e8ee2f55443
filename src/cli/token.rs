//! `hostler token` and `hostler user`.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;

use crate::app::access::{TokenView, UserView};
use crate::cli::client::Client;
use crate::cli::{CliError, Result, output};
use crate::domain::access::Role;
use crate::http::api::access::{CreatedToken, NewToken};

#[derive(Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token; its secret is printed once, on stdout
    Create {
        name: String,
        /// viewer, tech, operator or admin
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// How long it is good, for example 30d; forever if absent
        #[arg(long, value_parser = output::parse_duration)]
        life: Option<Duration>,
    },
    List,
    /// Make a token useless at once
    Revoke {
        id: String,
    },
}

#[derive(Subcommand)]
pub(super) enum UserVerb {
    List,
    /// Make a user; the password is asked for, or read from stdin
    Create {
        name: String,
        /// viewer, tech, operator or admin
        #[arg(long, default_value = "viewer")]
        role: Role,
    },
    /// Set a password, asked for or read from stdin; ends the user's sessions
    Password {
        name: String,
    },
    /// Remove a user with its sessions and tokens
    Remove {
        name: String,
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run_token(client: &Client, verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create { name, role, life } => {
            let body = NewToken { name, role, life_secs: life.map(|l| l.as_secs()) };
            let created: CreatedToken = client.post(&["tokens"], Some(&body)).await?;
            if client.json {
                output::json(&created);
            } else {
                eprintln!(
                    "Token {} ({}), role {}. Its secret is shown this once:",
                    created.token.name, created.token.id, created.token.role
                );
                output::line(&created.secret);
            }
        }
        TokenVerb::List => {
            let tokens: Vec<TokenView> = client.get(&["tokens"], &[]).await?;
            if client.json {
                output::json(&tokens);
            } else {
                let rows = tokens
                    .into_iter()
                    .map(|t| {
                        vec![
                            t.id.to_string(),
                            t.name,
                            t.role.to_string(),
                            output::ago(t.created_at),
                            output::or_dash(t.expires_at),
                            t.last_used_at.map_or("never".to_owned(), output::ago),
                        ]
                    })
                    .collect();
                output::table(&["id", "name", "role", "made", "expires", "last used"], rows);
            }
        }
        TokenVerb::Revoke { id } => client.tell(Method::DELETE, &["tokens", &id], None::<&()>).await?,
    }
    Ok(())
}

pub(super) async fn run_user(client: &Client, verb: UserVerb) -> Result<()> {
    match verb {
        UserVerb::List => {
            let users: Vec<UserView> = client.get(&["users"], &[]).await?;
            if client.json {
                output::json(&users);
            } else {
                output::table(
                    &["name", "role", "id"],
                    users.into_iter().map(|u| vec![u.name, u.role.to_string(), u.id.to_string()]).collect(),
                );
            }
        }
        UserVerb::Create { name, role } => {
            let password = ask_password("Password of the new user: ")?;
            let body = serde_json::json!({ "name": name, "role": role, "password": password });
            let user: UserView = client.post(&["users"], Some(&body)).await?;
            if client.json {
                output::json(&user);
            } else {
                eprintln!("{} was made with the role {}.", user.name, user.role);
            }
        }
        UserVerb::Password { name } => {
            let password = ask_password(&format!("New password of {name}: "))?;
            client.tell(Method::PUT, &["users", &name, "password"], Some(&serde_json::json!({ "password": password }))).await?;
            eprintln!("The password of {name} is set; its sessions ended.");
        }
        UserVerb::Remove { name, yes } => {
            output::confirm(yes, &format!("Remove the user {name} with its tokens?"))?;
            client.tell(Method::DELETE, &["users", &name], None::<&()>).await?;
        }
    }
    Ok(())
}

/// Never from the command line, where other users of the computer see it.
/// Asks for a password that is known already: once, without the second time that catches slips in a new one.
pub(super) fn ask_once(prompt: &str) -> Result<String> {
    let failed = |e: std::io::Error| CliError::Failed { what: format!("cannot read a password: {e}"), hint: String::new() };
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map_err(failed);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(super) fn ask_password(prompt: &str) -> Result<String> {
    let failed = |e: std::io::Error| CliError::Failed { what: format!("cannot read a password: {e}"), hint: String::new() };
    if std::io::stdin().is_terminal() {
        let one = rpassword::prompt_password(prompt).map_err(failed)?;
        let two = rpassword::prompt_password("Again: ").map_err(failed)?;
        if one != two {
            return Err(CliError::Usage { what: "the two passwords are not the same".to_owned(), hint: "try again".to_owned() });
        }
        return Ok(one);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
