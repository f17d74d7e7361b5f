// The whole of the pages' behaviour.  A page is complete without it; with it, a page keeps itself up to date, and can act.
import { hold, keepLive } from "./live.js";
import { offerActions } from "./actions.js";
import { offerChat } from "./chat.js";
import { offerForms } from "./forms.js";
import { offerKeys } from "./keys.js";
import { followLog } from "./log.js";
import { offerTheme, tellZone } from "./reader.js";

tellZone();
offerTheme();
offerActions();
offerForms();
offerKeys({ hold });
followLog();
offerChat();
keepLive();
