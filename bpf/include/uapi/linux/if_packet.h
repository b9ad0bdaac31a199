/* Empty on purpose: bcc's helpers include it for networking programs, which ours are not. */
#pragma once
