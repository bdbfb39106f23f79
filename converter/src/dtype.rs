//! How a conversion stores matrices.

use nanoserve_format::{Encoding, Recipe, RecipeError};
use std::fmt;
use std::str::FromStr;

/// How matrices are stored. Norms and biases are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dtype {
    /// In an encoding for each role, to which the source's values are rounded.
    Recipe(Recipe),
    /// Each in the smallest encoding that holds the source's values exactly. Blocks of a GGUF file keep their numbers.
    Source,
}

/// The word for [`Dtype::Source`].
const SOURCE: &str = "source";

impl From<Recipe> for Dtype {
    fn from(recipe: Recipe) -> Dtype {
        Dtype::Recipe(recipe)
    }
}

impl From<Encoding> for Dtype {
    fn from(encoding: Encoding) -> Dtype {
        Dtype::Recipe(encoding.into())
    }
}

/// Reads `source`, or a recipe such as `q4` or `q4,down=q6`.
///
/// ```
/// use nanoserve_converter::Dtype;
/// use nanoserve_format::Encoding;
///
/// assert_eq!("source".parse(), Ok(Dtype::Source));
/// assert_eq!("q8".parse(), Ok(Dtype::from(Encoding::Q8)));
/// assert!("q7".parse::<Dtype>().is_err());
/// ```
impl FromStr for Dtype {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Dtype, RecipeError> {
        if text == SOURCE { Ok(Dtype::Source) } else { text.parse().map(Dtype::Recipe) }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Dtype::Recipe(recipe) => recipe.fmt(f),
            Dtype::Source => f.write_str(SOURCE),
        }
    }
}

impl Dtype {
    /// The recipe that a plan begins with. With [`Dtype::Source`] every matrix gets an encoding of its own afterwards.
    pub(crate) fn recipe(self) -> Recipe {
        match self {
            Dtype::Recipe(recipe) => recipe,
            Dtype::Source => Recipe::uniform(Encoding::F32),
        }
    }
}
