//! Which encoding each matrix gets when a file is made.

use crate::codes::Codes;
use crate::encoding::Encoding;
use crate::schema::Role;
use std::fmt;
use std::str::FromStr;

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

    /// The recipe of a conversion to one encoding. Every matrix has that encoding, with one exception: where it has fewer than
    /// 6 bits, embedding and head have 6, because their errors reach every logit.
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

/// Why a text is no recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A word that is no encoding to choose.
    #[error("'{got}' is no encoding; expected {}", names(Encoding::CHOICES.map(Encoding::name)))]
    Encoding {
        /// The word.
        got: String,
    },
    /// What follows a comma is not `ROLE=ENCODING`.
    #[error("'{got}' is not ROLE=ENCODING; roles are {}", names(Role::ALL.map(Role::name)))]
    Role {
        /// What follows the comma.
        got: String,
    },
    /// A role is there twice.
    #[error("{} has two encodings", role.name())]
    Twice {
        /// The role.
        role: Role,
    },
}

fn names<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

/// Reads `q4`, or `q4,down=q6,v=q6`: what [`Recipe::usual`] says for the first encoding, but for the roles that follow. The
/// head has the embedding's encoding where only that one is named.
///
/// ```
/// use nanoserve_format::{Codes, Encoding, Recipe, Role};
///
/// let recipe: Recipe = "q4,down=q6,embedding=q8".parse()?;
/// assert_eq!(recipe.encoding(Role::Down), Encoding::Codes(Codes::Q6));
/// assert_eq!(recipe.encoding(Role::Head), Encoding::Q8);
/// # Ok::<(), nanoserve_format::RecipeError>(())
/// ```
impl FromStr for Recipe {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Recipe, RecipeError> {
        let encoding = |word: &str| {
            let found = Encoding::CHOICES.into_iter().find(|e| e.name() == word);
            found.ok_or_else(|| RecipeError::Encoding { got: word.into() })
        };
        let mut parts = text.split(',');
        let mut recipe = Recipe::usual(encoding(parts.next().unwrap_or_default())?);
        let mut named = Vec::new();
        for part in parts {
            let no_role = || RecipeError::Role { got: part.into() };
            let (role, word) = part.split_once('=').ok_or_else(no_role)?;
            let role = Role::ALL.into_iter().find(|r| r.name() == role).ok_or_else(no_role)?;
            if named.contains(&role) {
                return Err(RecipeError::Twice { role });
            }
            named.push(role);
            recipe = recipe.with(role, encoding(word)?);
        }
        if named.contains(&Role::Embedding) && !named.contains(&Role::Head) {
            recipe = recipe.with(Role::Head, recipe.encoding(Role::Embedding));
        }
        Ok(recipe)
    }
}

/// The most frequent encoding (on a tie, the first of [`Encoding::ALL`]), then the roles that have another one than
/// [`Recipe::usual`] says for it. Read again, it is the same recipe.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let count = |encoding| self.0.iter().filter(|e| **e == encoding).count();
        let [first, rest @ ..] = Encoding::ALL;
        let most = rest.into_iter().fold(first, |most, e| if count(e) > count(most) { e } else { most });
        let usual = Recipe::usual(most);
        let differs = |role: Role| self.encoding(role) != usual.encoding(role);
        f.write_str(most.name())?;
        // A head that is not named has the embedding's encoding.
        let named = |role: &Role| differs(*role) || (*role == Role::Head && differs(Role::Embedding));
        for role in Role::ALL.into_iter().filter(named) {
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
            let head = if role == Role::Embedding { ",head=f32" } else { "" };
            assert_eq!(recipe.to_string(), format!("f32,{}=q8{head}", role.name()));
        }
        assert_eq!(Recipe::from(Encoding::F16).to_string(), "f16");
    }

    #[test]
    fn what_is_displayed_is_read() {
        for encoding in Encoding::CHOICES {
            for recipe in [
                Recipe::uniform(encoding),
                Recipe::usual(encoding),
                Recipe::usual(encoding).with(Role::V, Encoding::Q8),
            ] {
                assert_eq!(recipe.to_string().parse(), Ok(recipe));
            }
            assert_eq!(encoding.name().parse(), Ok(Recipe::usual(encoding)));
        }
    }

    #[test]
    fn what_is_no_recipe_is_refused() {
        let error = |text: &str| text.parse::<Recipe>().unwrap_err().to_string();
        assert_eq!(error("q7"), "'q7' is no encoding; expected f32, f16, q8, q6, q5, q4");
        assert_eq!(error("q4_k"), "'q4_k' is no encoding; expected f32, f16, q8, q6, q5, q4");
        assert_eq!(
            error("q4,nose=q8"),
            "'nose=q8' is not ROLE=ENCODING; roles are embedding, q, k, v, o, gate, up, down, head"
        );
        assert!(error("q4,").starts_with("'' is not ROLE=ENCODING"));
        assert!(error("").starts_with("'' is no encoding"));
        assert_eq!(error("q4,v=q8,v=q8"), "v has two encodings");
        assert!(error("q4,v=").starts_with("'' is no encoding"));
    }
}
