//! The launch half: a request and a record become a plan, and the plan becomes a process inside the image.
