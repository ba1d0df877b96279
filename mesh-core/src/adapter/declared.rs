//! A vendor by its file.

mod answer;
mod request;
#[cfg(test)]
pub(crate) mod tests;

use std::time::SystemTime;

use bytes::Bytes;
use prost_reflect::DynamicMessage;

use self::request::Fixed;
use super::{Terms, Vendor};
use crate::{
    config::{Part, vendor::VendorFile},
    contract::Context,
    fault::Fault,
    http::{Answer, Request},
    policy::budget::BudgetRule,
};

/// A vendor by its file. What no message changes is made once.
#[derive(Debug)]
pub struct Declared {
    file: VendorFile,
    /// By operation.
    fixed: Vec<Fixed>,
}

impl Declared {
    /// Makes everything that depends on the file alone.
    ///
    /// # Errors
    /// A header that is made of secrets alone is none.
    pub fn new(file: VendorFile) -> Result<Declared, Fault> {
        let fixed = file.operations.iter().map(|plan| Fixed::new(&file, plan)).collect::<Result<_, _>>()?;
        Ok(Declared { file, fixed })
    }
}

impl Vendor for Declared {
    fn name(&self) -> &str {
        &self.file.vendor
    }

    fn terms(&self) -> Vec<Terms> {
        let route = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(_) => "{}".to_owned(),
        };
        let terms = |plan: &crate::config::vendor::OperationPlan| Terms {
            info: plan.info.clone(),
            quota: plan.quota.clone(),
            timeout: plan.timeout,
            retry: plan.retry.clone(),
            isolated: plan.isolate_by.is_some(),
            route: plan.request.path.parts().iter().map(route).collect(),
        };
        self.file.operations.iter().map(terms).collect()
    }

    fn retry_budget(&self) -> BudgetRule {
        self.file.retry_budget.clone()
    }

    fn target(&self, operation: usize, message: &DynamicMessage) -> Option<String> {
        request::target(&self.file, &self.file.operations[operation], message)
    }

    fn request(&self, operation: usize, cx: &Context, message: &DynamicMessage) -> Result<Request, Fault> {
        request::build(&self.file, &self.file.operations[operation], &self.fixed[operation], (cx, message))
    }

    fn interpret(&self, operation: usize, answer: &Answer, now: SystemTime) -> Result<Bytes, Fault> {
        answer::interpret(&self.file, &self.file.operations[operation], answer, now)
    }
}
