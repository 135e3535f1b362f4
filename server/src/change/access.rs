//! Changes who may do what.

use sockpilot_identity::name::Role;
use sockpilot_policy::model::Labels;
use uuid::Uuid;

use super::{author::Author, difference::Difference};
use crate::{
    auth::caller::Bound,
    store::{
        Error, Result,
        access::{self, NewToken},
        audit,
        connection::PgConnection,
        control,
    },
};

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessChange {
    UpdatePerson {
        name: String,
        role: Role,
        bound: Bound,
    },
    DeletePerson {
        name: String,
    },
    CreateToken(NewToken),
    RevokeToken {
        id: Uuid,
    },
    /// `nodes/{node}` or `people/{name}`.
    Revoke {
        name: String,
    },
    Admit {
        name: String,
    },
    PinLabels {
        node_id: String,
        labels: Labels,
    },
}

impl AccessChange {
    /// What the audit log calls it, and what it is about.
    #[must_use]
    pub fn subject(&self) -> (&'static str, String) {
        match self {
            Self::UpdatePerson { name, .. } => ("UpdatePerson", format!("people/{name}")),
            Self::DeletePerson { name } => ("DeletePerson", format!("people/{name}")),
            Self::CreateToken(token) => ("CreateToken", format!("tokens/{}", token.id)),
            Self::RevokeToken { id } => ("RevokeToken", format!("tokens/{id}")),
            Self::Revoke { name } => ("Revoke", name.clone()),
            Self::Admit { name } => ("Admit", name.clone()),
            Self::PinLabels { node_id, .. } => ("PinLabels", format!("nodes/{node_id}")),
        }
    }
}

/// Makes the change.
///
/// # Errors
/// If there is nobody and nothing of that name, or the database fails.
pub async fn change(conn: &mut PgConnection, author: &Author, change: &AccessChange) -> Result<()> {
    control::lock(&mut *conn).await?;
    let (method, name) = change.subject();
    let before = access::shown(&mut *conn, &name).await?;
    let found = match change {
        AccessChange::UpdatePerson { name, role, bound } => {
            access::put_person(&mut *conn, name, *role, bound).await?;
            true
        }
        AccessChange::DeletePerson { name } => access::delete_person(&mut *conn, name).await?,
        AccessChange::CreateToken(token) => {
            access::add_token(&mut *conn, token, &author.actor()).await?;
            true
        }
        AccessChange::RevokeToken { id } => access::delete_token(&mut *conn, *id).await?,
        AccessChange::Revoke { name } => {
            access::revoke(&mut *conn, name, author.reason()).await?;
            true
        }
        AccessChange::Admit { name } => access::admit(&mut *conn, name).await?,
        AccessChange::PinLabels { node_id, labels } => {
            access::pin(&mut *conn, node_id, labels).await?;
            control::bump(&mut *conn).await?;
            true
        }
    };
    if !found {
        return Err(Error::NotFound { name });
    }
    access::bump(&mut *conn).await?;
    let difference = Difference::between(&before, &access::shown(&mut *conn, &name).await?);
    audit::note(conn, author, method, (&name, 0), difference).await
}
