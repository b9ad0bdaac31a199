/* Empty on purpose: bcc brings its own copy of this header; this file only has to exist. */
#pragma once
