/** View: rate. The campaigns, or one of them. */

import { showCampaigns } from "./campaigns.mjs";
import { showSitting } from "./sitting.mjs";

/** Show the view. */
export function show(main, { rest: [name], signal }) {
  return name ? showSitting(main, name, signal) : showCampaigns(main, signal);
}
