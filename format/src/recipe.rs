//! Which encoding each matrix gets when a file is made.

use crate::codes::Codes;
use crate::encoding::Encoding;
use crate::schema::Role;
use std::fmt;

/// An encoding for each [`Role`].
///
/// ```
/// use nanoserve_format::{Encoding, Recipe, Role};
///
/// let recipe = Recipe::uniform(Encoding::Q8).with(Role::Embedding, Encoding::F16).with(Role::Head, Encoding::F16);
/// assert_eq!((recipe.encoding(Role::Head), recipe.encoding(Role::Up)), (Encoding::F16, Encoding::Q8));
/// assert_eq!(recipe.to_string(), "q8,embedding=f16,head=f16");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe([Encoding; Role::ALL.len()]);

impl Recipe {
    /// Every matrix in one encoding.
    pub fn uniform(encoding: Encoding) -> Recipe {
        Recipe([encoding; Role::ALL.len()])
    }

    /// What a conversion to an encoding means: every matrix in it, but the embedding and the head in 6 bits where it has
    /// fewer. Their errors reach every logit.
    pub fn usual(encoding: Encoding) -> Recipe {
        let recipe = Recipe::uniform(encoding);
        match encoding {
            Encoding::Codes(codes) if codes.form().bits < 6 => {
                let fine = Encoding::Codes(Codes::Q6);
                recipe.with(Role::Embedding, fine).with(Role::Head, fine)
            }
            Encoding::F32 | Encoding::F16 | Encoding::Q8 | Encoding::Codes(_) => recipe,
        }
    }

    /// The same with another encoding for the matrices of one role.
    #[must_use]
    pub fn with(mut self, role: Role, encoding: Encoding) -> Recipe {
        self.0[role as usize] = encoding;
        self
    }

    /// The encoding of the matrices of a role.
    pub fn encoding(&self, role: Role) -> Encoding {
        self.0[role as usize]
    }
}

impl From<Encoding> for Recipe {
    fn from(encoding: Encoding) -> Recipe {
        Recipe::uniform(encoding)
    }
}

/// The most frequent encoding (on a tie, the first of [`Encoding::ALL`]), then the roles that have another one.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let count = |encoding| self.0.iter().filter(|e| **e == encoding).count();
        let [first, rest @ ..] = Encoding::ALL;
        let most = rest.into_iter().fold(first, |most, e| if count(e) > count(most) { e } else { most });
        f.write_str(most.name())?;
        for role in Role::ALL.into_iter().filter(|role| self.encoding(*role) != most) {
            write!(f, ",{}={}", role.name(), self.encoding(role))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_its_own_place() {
        for role in Role::ALL {
            let recipe = Recipe::uniform(Encoding::F32).with(role, Encoding::Q8);
            let found: Vec<Role> = Role::ALL.into_iter().filter(|r| recipe.encoding(*r) == Encoding::Q8).collect();
            assert_eq!(found, [role]);
            assert_eq!(recipe.to_string(), format!("f32,{}=q8", role.name()));
        }
        assert_eq!(Recipe::from(Encoding::F16).to_string(), "f16");
    }
}
